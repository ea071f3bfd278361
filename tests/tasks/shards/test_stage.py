"""The shards stage on a small corpus."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.batches import iterate_rows, verify_rows
from model.tokenizer import Tokenizer
from tasks._errors import StageError
from tasks.shards.stage import run
from tests.tasks.shards.small_corpus import (
    contents,
    context,
    prepare,
    read_manifest,
    read_rows,
    run_stage,
    some_documents,
    write_documents,
)


def test_tokens_in_equal_tokens_packed_and_splits_are_disjoint(tmp_path: Path) -> None:
    frame = prepare(tmp_path)
    folder = run_stage(tmp_path)
    tokenizer = Tokenizer.from_file(tmp_path / "artifacts/tokenizer/tokenizer.json")
    manifest = read_manifest(folder)
    table = pl.read_parquet(folder / "documents.parquet")
    assert table.columns == ["id", "split", "tokens", "repeats", "domain"]
    assert set(table["repeats"]) == {1}
    assert table["id"].to_list() == frame["id"].to_list()
    assert table["tokens"].to_list() == [len(ids) for ids in tokenizer.encode_batch(frame["text"].to_list())]
    assert verify_rows(folder) == 4  # rows and pieces of two splits
    for split in ("train", "val"):
        rows, section = read_rows(folder, split), manifest[split]
        own = table.filter(pl.col("split") == split)
        assert section["documents"] == section["copies"] == own.height > 5
        assert section["unique_tokens"] == own["tokens"].sum()
        assert (rows[:, 0] == manifest["bos_id"]).all()
        assert section["rows"] == len(rows)
        assert section["padding"] == (rows == manifest["pad_id"]).sum()
        assert section["tokens"] == rows.size - section["padding"]
        assert section["tokens"] == own["tokens"].sum() + own.height + section["continuation_bos"]
        assert (rows == manifest["bos_id"]).sum() == own.height + section["continuation_bos"]
        # Every byte of text is in some row: BOS and padding have none.
        table_bytes = np.array(tokenizer.bytes_per_id())
        assert table_bytes[rows].sum() == section["bytes"]
    assert manifest["dropped_tokens"] == 0
    assert manifest["train"]["padding"] / read_rows(folder, "train").size <= 0.005
    [batch] = list(iterate_rows(folder, "val", 1000))
    assert batch.weights_BT.sum() == (read_rows(folder, "val")[:, 1:] != manifest["pad_id"]).sum()


def _repeat(root: Path, repeats: list[Any]) -> pl.DataFrame:
    """The corpus as the mixing of the corpus stage writes it."""
    path = root / "artifacts/corpus/documents/00000.parquet"
    frame = pl.read_parquet(path).with_columns(pl.Series("repeats", repeats))
    if frame["repeats"].dtype == pl.Int64:
        frame = frame.with_columns(pl.col("repeats").cast(pl.Int32))
    frame.write_parquet(path)
    return frame


def _texts_in_rows(root: Path, folder: Path, split: str) -> list[list[str]]:
    """Per row, the texts between its BOS marks."""
    tokenizer = Tokenizer.from_file(root / "artifacts/tokenizer/tokenizer.json")
    manifest = read_manifest(folder)
    found = []
    for row in read_rows(folder, split).tolist():
        ids = [number for number in row if number != manifest["pad_id"]]
        starts = [place for place, number in enumerate(ids) if number == manifest["bos_id"]]
        found.append([tokenizer.decode(ids[a + 1 : b]) for a, b in zip(starts, [*starts[1:], len(ids)], strict=True)])
    return found


def test_training_documents_are_packed_as_often_as_repeats_says_and_validation_once(tmp_path: Path) -> None:
    repeats = [1 + number % 4 for number in range(300)]
    prepare(tmp_path)
    frame = _repeat(tmp_path, repeats)
    # Rows longer than any document and no padding limit: nothing is cut, so whole texts can be counted.
    folder = run_stage(tmp_path, tokens_per_row=1024, max_padding_fraction=0.99)
    table = pl.read_parquet(folder / "documents.parquet").join(frame.select("id", "text"), on="id")
    manifest = read_manifest(folder)
    for split in ("train", "val"):
        own, section = table.filter(pl.col("split") == split), manifest[split]
        wanted = dict(zip(frame["id"], repeats, strict=True)) if split == "train" else dict.fromkeys(frame["id"], 1)
        assert own["repeats"].to_list() == [wanted[name] for name in own["id"]]
        rows = _texts_in_rows(tmp_path, folder, split)
        counted = Counter(text for row in rows for text in row)
        expected: Counter[str] = Counter()
        for text, count in zip(own["text"], own["repeats"], strict=True):
            expected[text] += count
        assert counted == expected
        assert section["documents"] == own.height
        assert section["copies"] == own["repeats"].sum() == section["tokens"] - (own["tokens"] * own["repeats"]).sum()
        assert section["unique_tokens"] == own["tokens"].sum()
        assert section["bytes"] == sum(len(text.encode()) * count for text, count in expected.items())
        unique = {text for text, count in Counter(own["text"]).items() if count == 1 and len(text) > 40}
        assert len(unique) > 5
        for row in rows:
            assert max(Counter(text for text in row if text in unique).values(), default=0) <= 1
    assert manifest["train"]["copies"] > 2 * manifest["train"]["documents"]


def test_training_tokens_are_those_of_one_epoch_with_repeats(tmp_path: Path) -> None:
    prepare(tmp_path)
    _repeat(tmp_path, [3] * 300)
    own = context(tmp_path)
    run(own)
    table = pl.read_parquet(own.out / "documents.parquet")
    train, val = (table.filter(pl.col("split") == split)["tokens"].sum() for split in ("train", "val"))
    assert own.measured["train_tokens"] == 3 * train
    assert own.amounts["tokens"] == 3 * train + val
    least, _, most = own.predicted["train_rows"]
    assert least <= own.measured["train_rows"] <= most


def test_a_corpus_without_repeats_gives_the_rows_of_one_with_ones(tmp_path: Path) -> None:
    outputs = []
    for name in ("without", "with"):
        prepare(tmp_path / name)
        if name == "with":
            _repeat(tmp_path / name, [1] * 300)
        folder = run_stage(tmp_path / name)
        outputs.append(contents(folder))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("bad", [0, -1, None, 1.5])
def test_repeats_that_are_no_count_are_refused(tmp_path: Path, bad: float | None) -> None:
    prepare(tmp_path, documents=3)
    _repeat(tmp_path, [1, bad, 2] if isinstance(bad, int | None) else [1.5, bad, 1.5])
    with pytest.raises(StageError, match=r"repeats=.* of document 'd00[01]'.*allowed: whole numbers of at least 1"):
        run_stage(tmp_path)


def test_threads_do_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    outputs = []
    for name, options in [("a", {}), ("b", {"workers": 3}), ("c", {"seed": 1})]:
        prepare(tmp_path / name)
        folder = run_stage(tmp_path / name, **options)
        outputs.append(contents(folder))
    assert outputs[0] == outputs[1]
    assert outputs[0]["documents.parquet"] != outputs[2]["documents.parquet"]


def test_the_validation_set_has_a_largest_size(tmp_path: Path) -> None:
    prepare(tmp_path)
    folder = run_stage(tmp_path, val_fraction=0.5, max_val_bytes=2_000)
    manifest = read_manifest(folder)
    assert 0 < manifest["val"]["bytes"] <= 2_000
    assert manifest["train"]["documents"] + manifest["val"]["documents"] == 300


def test_windows_change_the_order_but_lose_nothing(tmp_path: Path) -> None:
    prepare(tmp_path, documents=2500)
    folder = run_stage(tmp_path, window_tokens=1000)
    tokens = pl.read_parquet(folder / "documents.parquet")["tokens"].sum()
    manifest = read_manifest(folder)
    packed = sum(
        manifest[s]["tokens"] - manifest[s]["documents"] - manifest[s]["continuation_bos"] for s in ("train", "val")
    )
    assert packed == tokens


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    prepare(tmp_path, documents=3)
    with pytest.raises(StageError, match=r"none of 3 documents falls into split 'val'.*val_fraction=0.0001"):
        run_stage(tmp_path, val_fraction=0.0001)


def test_validation_text_is_halved_until_it_fits_and_an_impossible_limit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    run(context(tmp_path, val_fraction=0.5))
    held_out = set(pl.read_parquet(tmp_path / "work/shards/out/documents.parquet").filter(split="val")["id"])
    run(context(tmp_path, val_fraction=0.5, max_val_bytes=5_000))
    assert "limited by max_val_bytes=5000: val_fraction is 0." in capsys.readouterr().out
    fewer = set(pl.read_parquet(tmp_path / "work/shards/out/documents.parquet").filter(split="val")["id"])
    assert fewer < held_out
    with pytest.raises(StageError, match=r"into split 'val'.*val_fraction=0.5, shards.max_val_bytes=1 "):
        run_stage(tmp_path, val_fraction=0.5, max_val_bytes=1)


def test_documents_that_come_later_move_none(tmp_path: Path) -> None:
    prepare(tmp_path)
    run(context(tmp_path))
    before = pl.read_parquet(tmp_path / "work/shards/out/documents.parquet")
    write_documents(tmp_path, some_documents(900), files=2)
    run(context(tmp_path))
    after = pl.read_parquet(tmp_path / "work/shards/out/documents.parquet").filter(pl.col("id").is_in(before["id"]))
    assert after.equals(before)


def test_rows_longer_than_every_document_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path)
    run_stage(tmp_path, tokens_per_row=4096)
    assert "tokens_per_row=4096 is longer than every document" in capsys.readouterr().out
