"""Encoding: cached per corpus file, bad corpora refused with a message."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.tokenizer import Tokenizer
from tasks._errors import StageError
from tasks._executor import InlineExecutor
from tasks.shards import encoding
from tasks.shards.encoding import BATCH_BYTES, DOCUMENTS, IDS, encode, id_type, read_ids
from tasks.shards.stage import run
from tests.tasks.shards.small_corpus import (
    context,
    prepare,
    read_manifest,
    run_stage,
    some_documents,
    write_documents,
    write_tokenizer,
)


def test_a_unit_holds_the_ids_of_every_document(tmp_path: Path) -> None:
    long = "é" * (BATCH_BYTES // 2 + 1)  # a text larger than what is encoded at once, between small ones
    texts = ["a", "", long, "b", *(f"text {number}" for number in range(600))]
    write_documents(tmp_path, pl.DataFrame({"id": [f"d{n}" for n in range(len(texts))], "text": texts}))
    write_tokenizer(tmp_path)
    tokenizer_file = tmp_path / "artifacts/tokenizer/tokenizer.json"
    out = tmp_path / "unit"
    out.mkdir()
    encode(out, str(tmp_path / "artifacts/corpus/documents/00000.parquet"), str(tokenizer_file), 2)
    table = pl.read_parquet(out / DOCUMENTS)
    expected = Tokenizer.from_file(tokenizer_file).encode_batch(texts)
    assert table["tokens"].to_list() == [len(ids) for ids in expected]
    assert table["bytes"].to_list() == [len(text.encode()) for text in texts]
    assert table["repeats"].unique().to_list() == [1]
    assert table["domain"].unique().to_list() == ["unknown"]
    assert np.fromfile(out / IDS, "<u2").tolist() == [number for ids in expected for number in ids]
    first = np.cumsum([0, *map(len, expected)])[:-1]
    chosen = np.array([3, 1, 600, 0])
    ids = read_ids([str(out)], np.zeros(4, np.uint32), first[chosen], table["tokens"].to_numpy()[chosen], "<u2")
    assert ids.tolist() == [number for place in chosen for number in expected[place]]


def test_ids_take_four_bytes_where_two_are_too_few() -> None:
    assert [id_type(size).itemsize for size in (256, 65_536, 65_537)] == [2, 2, 4]


def test_a_truncated_unit_is_named(tmp_path: Path) -> None:
    (tmp_path / IDS).write_bytes(b"\0\0\0\0")
    with pytest.raises(StageError, match=r"ids.bin ends before the tokens.*remove the folder"):
        read_ids([str(tmp_path)], np.zeros(1, np.uint32), np.array([1]), np.array([2], np.uint32), "<u2")


def test_only_new_files_are_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    original = encoding.encode

    def counted(out: Path, file: str, tokenizer_file: str, threads: int) -> None:
        encoded.append(Path(file).name)
        original(out, file, tokenizer_file, threads)

    monkeypatch.setattr(encoding, "encode", counted)
    monkeypatch.setattr("tasks.shards.stage.open_executor", lambda ctx: _inline())
    frame = prepare(tmp_path)
    write_documents(tmp_path, frame, files=2)
    first = context(tmp_path)
    run(first)
    assert encoded == ["00000.parquet", "00001.parquet"]
    assert first.amounts["new_bytes"] == first.amounts["kept_bytes"] == frame["text"].str.len_bytes().sum()
    other = context(tmp_path, seed=1, tokens_per_row=32)
    run(other)
    assert len(encoded) == 2
    assert other.amounts["new_bytes"] == 0
    more = some_documents(340)[300:]
    more.write_parquet(tmp_path / "artifacts/corpus/documents/00002.parquet")
    third = context(tmp_path)
    run(third)
    assert encoded[2:] == ["00002.parquet"]
    assert third.amounts["new_bytes"] == more["text"].str.len_bytes().sum()
    write_tokenizer(tmp_path)
    run(context(tmp_path))
    assert len(encoded) == 6


@contextmanager
def _inline() -> Iterator[InlineExecutor]:
    yield InlineExecutor()


def _with(frame: pl.DataFrame, **values: Any) -> pl.DataFrame:
    return frame.with_columns(pl.Series(name, value) for name, value in values.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("text"), r"corpus/documents/00000.parquet has no column text; found: id"),
        (lambda f: _with(f, text=["a", None, "b"]), r"a document has no text: {'id': 'd001'"),
        (lambda f: _with(f, id=["a", None, "b"]), r"a document has no id"),
        (lambda f: _with(f, id=["a", "b", "a"]), r"1 document\(s\) share the id of another, such as 'a'"),
        (lambda f: _with(f, domain=["a", "", "b"]), r"document 'd001' has an empty domain; allowed: a name"),
        (lambda f: f[:1], r"none of 1 documents falls into split '(train|val)'"),
        (lambda f: f[:0], r"none of 0 documents falls into split 'train'"),
    ],
)
def test_a_corpus_that_cannot_be_packed_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    frame = prepare(tmp_path, documents=3)
    write_documents(tmp_path, change(frame))
    with pytest.raises(StageError, match=message):
        run_stage(tmp_path)


def test_no_files_and_a_foreign_tokenizer_are_refused(tmp_path: Path) -> None:
    prepare(tmp_path, documents=3)
    write_documents(tmp_path, some_documents(3), files=0)
    with pytest.raises(StageError, match=r"holds no \*.parquet"):
        run_stage(tmp_path)
    write_documents(tmp_path, some_documents(3))
    (tmp_path / "artifacts/tokenizer/tokenizer.json").write_text("{}")
    with pytest.raises(StageError, match=r"tokenizer.json is not"):
        run_stage(tmp_path)


def test_near_duplicates_and_their_domain_are_held_out_together(tmp_path: Path, capsys: Any) -> None:
    frame = _with(prepare(tmp_path), domain=["a", "b", "c"] * 100, cluster_id=[f"c{n // 10}" for n in range(300)])
    write_documents(tmp_path, frame)
    folder = run_stage(tmp_path, val_fraction=0.2)
    table = pl.read_parquet(folder / "documents.parquet").with_columns(frame["cluster_id"])
    assert table.group_by("cluster_id").agg(pl.col("split").n_unique())["split"].unique().to_list() == [1]
    manifest = read_manifest(folder)
    assert set(manifest["train"]["domains"]) == {"a", "b", "c"}
    own = table.filter(split="val", domain="b")
    assert manifest["val"]["domains"]["b"] == {"documents": own.height, "tokens": own["tokens"].sum()}
    assert "no validation document" not in capsys.readouterr().out
    frame = _with(frame, domain=["rare", *["a"] * 299])
    write_documents(tmp_path, frame)
    run(context(tmp_path))
    rare_is_val = pl.read_parquet(tmp_path / "work/shards/out/documents.parquet")["split"][0] == "val"
    assert ("no validation document in domain(s) rare" in capsys.readouterr().out) != rare_is_val
