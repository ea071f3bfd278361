"""The tokenizer stage: three strategies, one artifact, a report that adds up."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.chat_format import render
from model.foreign_tokenizer import SPLIT_PATTERNS
from model.tokenizer import SMALLEST_VOCAB, SPECIAL_TOKENS, Tokenizer, train_tokenizer_json
from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.stages import Stage
from tasks.tokenizer.stage import Params, run
from tests.stage_context import make_context

FILES = ("tokenizer.json", "tokenizer_config.json", "report.json", "report.md", "report.html")
SYLLABLES = ["ka", "to", "ri", "men", "so", "lu", "the ", "ing ", "er ", "\n", "é", "12", "東", "<b>|"]


def corpus(documents: int = 400) -> pl.DataFrame:
    source = random.Random(0)
    return pl.DataFrame(
        {
            "id": [f"d{i:03d}" for i in range(documents)],
            "text": ["".join(source.choices(SYLLABLES, k=60)) for _ in range(documents)],
            "domain": ["even" if i % 2 == 0 else "odd" for i in range(documents)],
        }
    )


def write(root: Path, frame: pl.DataFrame, files: int = 1, **options: Any) -> Path:
    folder = root / "artifacts/corpus/documents"
    folder.mkdir(parents=True)
    for number in range(files):
        frame[number::files].write_parquet(folder / f"{number:05d}.parquet", **options)
    return folder


def start(root: Path, workers: int = 1, **values: Any) -> Path:
    context = make_context(root, Stage.TOKENIZER, validate(Params, values, "test"), runtime=Runtime(workers=workers))
    run(context)
    return context.out


def write_ranks(root: Path) -> Tokenizer:
    """A rank file as others publish them, data/tokenizer/x.tiktoken; returns the vocabulary it was made from."""
    trained = Tokenizer.from_json(train_tokenizer_json(corpus()["text"], 384, SPLIT_PATTERNS["gpt2"]))
    tokens = [trained.decode_bytes([number]) for number in range(trained.ordinary_tokens)]
    (root / "data/tokenizer").mkdir(parents=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (root / "data/tokenizer/x.tiktoken").write_text("\n".join(lines))
    return trained


def test_the_result_depends_on_the_documents_alone(tmp_path: Path) -> None:
    """Not on workers, the number of files, the order of documents, or row groups."""
    write(tmp_path / "a", corpus())
    write(tmp_path / "b", corpus().reverse(), files=3, row_group_size=17)
    one, two = start(tmp_path / "a", vocab_size=448), start(tmp_path / "b", workers=2, vocab_size=448)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    tokenizer = Tokenizer.from_file(one / "tokenizer.json")
    assert tokenizer.vocab_size == 448
    report = json.loads((one / "report.json").read_text())
    assert report["sha256"] == tokenizer.sha256
    assert report["bytes_per_token"] > 2
    assert set(report["domains"]) == {"even", "odd"}
    for groups in (report["domains"], report["languages"]):
        total = {key: sum(d[key] for d in groups.values()) for key in ("documents", "bytes", "tokens")}
        assert total["documents"] == report["held_out_documents"]
        assert total["bytes"] == report["held_out_bytes"]
        assert report["bytes_per_token"] == round(total["bytes"] / total["tokens"], 4)
    assert report["sizes"][-1] == {"vocab_size": 448, "bytes_per_token": report["bytes_per_token"]}
    assert report["used_tokens"] + report["dead_tokens"] + report["unused_bytes"] == tokenizer.ordinary_tokens


def test_a_report_without_rank_files_says_so_and_shows_no_markup_of_the_text(tmp_path: Path) -> None:
    write(tmp_path, corpus().with_columns(domain=pl.lit("<script>|x")))
    out = start(tmp_path, vocab_size=448)
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "Not compared with GPT-2 and GPT-4: their rank files are not configured" in text
    assert "rank files are not configured" in page
    assert "<script>" not in page + text
    assert "<svg" in page
    assert all(len(line.split(" | ")) == 5 for line in text.splitlines() if line.startswith("| &lt;script"))


def test_transformers_loads_the_folder_and_renders_chats_as_we_do(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write(tmp_path, corpus())
    out = start(tmp_path, vocab_size=448)
    reader, tokenizer = AutoTokenizer.from_pretrained(out), Tokenizer.from_file(out / "tokenizer.json")
    assert reader.bos_token == "<|bos|>"
    assert reader.encode("the king", add_special_tokens=False) == tokenizer.encode("the king")
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "to"},
    ]
    assert reader.apply_chat_template(chat, return_dict=False) == render(tokenizer, chat)[0]
    assert set(reader.all_special_tokens) == set(SPECIAL_TOKENS)


def test_a_vocabulary_beyond_the_text_is_an_error_that_says_what_fits(tmp_path: Path) -> None:
    write(tmp_path / "a", corpus(30))
    with pytest.raises(StageError, match=r"vocab_size=32768 is larger.*allowed: at most \d+; next: set") as error:
        start(tmp_path / "a", vocab_size=32768)
    allowed = int(str(error.value).split("at most ")[1].split(";")[0])
    write(tmp_path / "b", corpus(30))
    assert Tokenizer.from_file(start(tmp_path / "b", vocab_size=allowed) / "tokenizer.json").vocab_size == allowed
    write(tmp_path / "c", corpus(30))
    with pytest.raises(StageError, match=f"vocab_size={allowed + 64} is larger.*allowed: at most {allowed};"):
        start(tmp_path / "c", vocab_size=allowed + 64)


def test_a_text_too_short_for_any_vocabulary_leads_to_bytes(tmp_path: Path) -> None:
    write(tmp_path, corpus(1).with_columns(text=pl.lit("Hello")))
    with pytest.raises(StageError, match=r"too little text to learn even the smallest.*strategy: byte with vocab_size"):
        start(tmp_path, vocab_size=448)


def test_byte_strategy_needs_no_training_and_a_single_document_is_enough(tmp_path: Path) -> None:
    write(tmp_path, corpus(1))
    out = start(tmp_path, strategy="byte", vocab_size=SMALLEST_VOCAB)
    report = json.loads((out / "report.json").read_text())
    assert report["bytes_per_token"] == 1.0
    assert not report["is_held_out"]
    assert "too few to hold some out" in (out / "report.md").read_text()


def test_a_rank_file_is_reused_with_its_ids_and_compared_with(tmp_path: Path) -> None:
    write(tmp_path, corpus())
    trained = write_ranks(tmp_path)
    out = start(
        tmp_path,
        strategy="reuse",
        reuse="x.tiktoken",
        split_pattern="gpt2",
        vocab_size=384,
        compare_with={"gpt2": "x.tiktoken"},
    )
    text = "the kamento 1212"
    assert Tokenizer.from_file(out / "tokenizer.json").encode(text) == trained.encode(text)
    report = json.loads((out / "report.json").read_text())
    assert report["compared_with"]["gpt2"] == {"tokens": 375, "bytes_per_token": report["bytes_per_token"]}
    assert all(entry["others"]["gpt2"] == entry["bytes_per_token"] for entry in report["domains"].values())
    assert "0.0% more text per token" in (out / "report.md").read_text()


def test_a_reused_file_must_exist_and_have_the_size_that_is_planned_with(tmp_path: Path) -> None:
    write(tmp_path, corpus(50))
    write_ranks(tmp_path)
    for values, message in [
        ({"reuse": "y.tiktoken"}, "tokenizer.reuse: .*y.tiktoken does not exist; next"),
        (
            {"reuse": "x.tiktoken", "vocab_size": 512},
            "x.tiktoken comes to 384 ids .*set tokenizer.vocab_size and budget",
        ),
        (
            {"reuse": "x.tiktoken", "vocab_size": 384, "compare_with": {"gpt4": "z.tiktoken"}},
            "tokenizer.compare_with.gpt4: .*z.tiktoken does not exist",
        ),
    ]:
        with pytest.raises(StageError, match=message):
            start(tmp_path, strategy="reuse", **values)


def test_unusable_documents_are_refused(tmp_path: Path) -> None:
    for number, (frame, message) in enumerate(
        [
            (corpus(3).with_columns(text=pl.lit("")), "3 documents of the corpus hold no text"),
            (corpus(0), "0 documents of the corpus hold no text"),
            (corpus(3).with_columns(domain=pl.lit(None, pl.String)), "documents without domain"),
        ]
    ):
        write(tmp_path / str(number), frame)
        with pytest.raises(StageError, match=message):
            start(tmp_path / str(number), vocab_size=448)
    (tmp_path / "none/artifacts/corpus/documents").mkdir(parents=True)
    with pytest.raises(StageError, match=r"holds no \*.parquet file"):
        start(tmp_path / "none")


def test_parameters_are_checked() -> None:
    for values, message in [
        ({"vocab_size": 4095}, "use 4096"),
        ({"vocab_size": 256}, "greater than or equal to 320"),
        ({"strategy": "byte", "vocab_size": 512}, "use 320"),
        ({"strategy": "reuse"}, "tokenizer.reuse=None; a file below data/tokenizer"),
        ({"reuse": "x"}, "strategy=train with tokenizer.reuse='x'"),
        ({"strategy": "reuse", "reuse": "../x"}, "allowed: a path below data/tokenizer"),
        ({"compare_with": {"gpt4": "/x"}}, "tokenizer.compare_with.gpt4='/x'; allowed: a path below"),
        ({"compare_with": {"llama": "x.tiktoken"}}, "has no split pattern of its own; allowed names"),
    ]:
        with pytest.raises(StageError, match=message):
            validate(Params, values, "params.yaml")
