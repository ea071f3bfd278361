"""The shards stage on a small corpus."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.batches import iterate_rows, verify_rows
from model.tokenizer import Tokenizer, train_tokenizer_json
from tasks._errors import StageError
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.shards.inspect import main
from tasks.shards.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context, publish

SMALL: dict[str, Any] = {"tokens_per_row": 64, "val_fraction": 0.1}


def _prepare(root: Path, documents: int = 300) -> pl.DataFrame:
    source = random.Random(0)
    texts = [
        " ".join(source.choices(["the", "model", "reads", "größer", "<|bos|>", "12"], k=source.choice([3, 20, 90])))
        for _ in range(documents)
    ]
    frame = pl.DataFrame({"id": [f"d{i:03d}" for i in range(documents)], "text": texts})
    (root / "artifacts/corpus/documents").mkdir(parents=True)
    (root / "artifacts/tokenizer").mkdir()
    frame.write_parquet(root / "artifacts/corpus/documents/00000.parquet")
    content = train_tokenizer_json([*texts, "packing splits documents, training predicts tokens before it " * 3], 320)
    (root / "artifacts/tokenizer/tokenizer.json").write_text(content, encoding="utf-8")
    return frame


def _run(root: Path, workers: int = 1, **values: Any) -> Path:
    context = make_context(
        root, Stage.SHARDS, validate(Params, {**SMALL, **values}, "test"), runtime=Runtime(workers=workers)
    )
    run(context)
    return publish(context)


def _rows(folder: Path, split: str) -> np.ndarray:
    manifest = json.loads((folder / "manifest.json").read_text())
    parts = [np.fromfile(folder / file["name"], "<u2") for file in manifest[split]["files"]]
    return np.concatenate(parts).reshape(-1, manifest["tokens_per_row"] + 1)


def test_tokens_in_equal_tokens_packed_and_splits_are_disjoint(tmp_path: Path) -> None:
    frame = _prepare(tmp_path)
    folder = _run(tmp_path)
    tokenizer = Tokenizer.from_file(tmp_path / "artifacts/tokenizer/tokenizer.json")
    manifest = json.loads((folder / "manifest.json").read_text())
    table = pl.read_parquet(folder / "documents.parquet")
    assert table.columns == ["id", "split", "tokens"]
    assert table["id"].to_list() == frame["id"].to_list()
    assert table["tokens"].to_list() == [len(ids) for ids in tokenizer.encode_batch(frame["text"].to_list())]
    assert verify_rows(folder) == 2
    for split in ("train", "val"):
        rows, section = _rows(folder, split), manifest[split]
        own = table.filter(pl.col("split") == split)
        assert section["documents"] == own.height > 5
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
    assert manifest["train"]["padding"] / _rows(folder, "train").size <= 0.005
    [batch] = list(iterate_rows(folder, "val", 1000))
    assert batch.weights_BT.sum() == (_rows(folder, "val")[:, 1:] != manifest["pad_id"]).sum()


def test_threads_do_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    outputs = []
    for name, options in [("a", {}), ("b", {"workers": 3}), ("c", {"seed": 1})]:
        _prepare(tmp_path / name)
        folder = _run(tmp_path / name, **options)
        outputs.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert outputs[0] == outputs[1]
    assert outputs[0]["documents.parquet"] != outputs[2]["documents.parquet"]


def test_the_validation_set_has_a_largest_size(tmp_path: Path) -> None:
    _prepare(tmp_path)
    folder = _run(tmp_path, val_fraction=0.5, max_val_bytes=2_000)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 0 < manifest["val"]["bytes"] <= 2_000
    assert manifest["train"]["documents"] + manifest["val"]["documents"] == 300


def test_windows_change_the_order_but_lose_nothing(tmp_path: Path) -> None:
    _prepare(tmp_path, documents=2500)
    folder = _run(tmp_path, window_tokens=1000)
    tokens = pl.read_parquet(folder / "documents.parquet")["tokens"].sum()
    manifest = json.loads((folder / "manifest.json").read_text())
    packed = sum(
        manifest[s]["tokens"] - manifest[s]["documents"] - manifest[s]["continuation_bos"] for s in ("train", "val")
    )
    assert packed == tokens


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    _prepare(tmp_path, documents=3)
    with pytest.raises(StageError, match=r"none of 3 documents falls into split 'val'.*val_fraction=0.0001"):
        _run(tmp_path, val_fraction=0.0001)


def test_rows_longer_than_every_document_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _prepare(tmp_path)
    _run(tmp_path, tokens_per_row=4096)
    assert "tokens_per_row=4096 is longer than every document" in capsys.readouterr().out


def test_inspect_prints_the_documents_of_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = _prepare(tmp_path)
    folder = str(_run(tmp_path))
    capsys.readouterr()
    assert main([folder, "--row", "0"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("===== train row 0 of ")
    assert "--- position 0: " in shown
    assert main([folder]) == 0
    assert any(f"\n{text}\n---" in capsys_text for capsys_text in [capsys.readouterr().out] for text in frame["text"])
    assert main([folder, "--row", "99999"]) == 2
    assert "no row 99999" in capsys.readouterr().err
    assert main([folder, "--split", "test"]) == 2
