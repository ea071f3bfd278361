"""The tokenizer stage."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.tokenizer import SMALLEST_VOCAB, Tokenizer
from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.stages import Stage
from tasks.tokenizer import Params, _split, run
from tests.stage_context import make_context


def _corpus(root: Path, documents: int = 400) -> pl.DataFrame:
    source = random.Random(0)
    syllables = ["ka", "to", "ri", "men", "so", "lu", "the ", "ing ", "er ", "\n"]
    frame = pl.DataFrame(
        {
            "id": [f"d{i:03d}" for i in range(documents)],
            "text": ["".join(source.choices(syllables, k=60)) for _ in range(documents)],
            "domain": ["even" if i % 2 == 0 else "odd" for i in range(documents)],
        }
    )
    folder = root / "artifacts/corpus/documents"
    folder.mkdir(parents=True)
    frame.write_parquet(folder / "00000.parquet")
    return frame


def _run(root: Path, workers: int = 1, documents: int = 400, **values: Any) -> Path:
    _corpus(root, documents)
    context = make_context(root, Stage.TOKENIZER, validate(Params, values, "test"), runtime=Runtime(workers=workers))
    run(context)
    return context.out


def test_the_vocabulary_has_the_size_asked_for_and_the_file_is_deterministic(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "a", vocab_size=448), _run(tmp_path / "b", workers=2, vocab_size=448)
    for name in ("tokenizer.json", "tokenizer_config.json", "report.json", "report.md"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    tokenizer = Tokenizer.from_file(one / "tokenizer.json")
    assert tokenizer.vocab_size == 448
    report = json.loads((one / "report.json").read_text())
    assert report["sha256"] == tokenizer.sha256
    assert report["bytes_per_token"] > 2
    assert set(report["domains"]) == {"even", "odd"}
    total = sum(d["tokens"] for d in report["domains"].values())
    assert report["bytes_per_token"] == round(sum(d["bytes"] for d in report["domains"].values()) / total, 4)


def test_transformers_loads_the_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    out = _run(tmp_path, vocab_size=448)
    reader = AutoTokenizer.from_pretrained(out)
    assert reader.bos_token == "<|bos|>"
    assert reader.encode("the king", add_special_tokens=False) == Tokenizer.from_file(out / "tokenizer.json").encode(
        "the king"
    )


def test_a_vocabulary_beyond_the_text_is_an_error_that_says_what_fits(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"vocab_size=32768 is larger.*allowed: at most \d+; next: set") as error:
        _run(tmp_path / "a", documents=30, vocab_size=32768)
    allowed = int(str(error.value).split("at most ")[1].split(";")[0])
    out = _run(tmp_path / "b", documents=30, vocab_size=allowed)
    assert Tokenizer.from_file(out / "tokenizer.json").vocab_size == allowed


def test_byte_strategy_needs_no_training(tmp_path: Path) -> None:
    out = _run(tmp_path, strategy="byte", vocab_size=SMALLEST_VOCAB, documents=1)
    assert json.loads((out / "report.json").read_text())["bytes_per_token"] == 1.0


def test_sample_is_bounded_and_apart_from_the_held_out_documents(tmp_path: Path) -> None:
    frame = _corpus(tmp_path)
    training, held_out = _split(frame, Params(max_characters=2_000, max_characters_per_document=50))
    assert training.height == 40  # 40 documents of 50 characters
    assert 20 <= held_out.height <= 40
    assert not set(training["id"]) & set(held_out["id"])


def test_parameters_are_checked() -> None:
    for values, message in [
        ({"vocab_size": 4095}, "use 4096"),
        ({"vocab_size": 256}, "greater than or equal to 320"),
        ({"strategy": "byte", "vocab_size": 512}, "use 320"),
    ]:
        with pytest.raises(StageError, match=message):
            validate(Params, values, "params.yaml")
