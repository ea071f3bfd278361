"""A small corpus and tokenizer on disk, the stage run on it, and the way back from rows to documents."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from model.tokenizer import Tokenizer, byte_tokenizer_json, train_tokenizer_json
from tasks._context import StageContext
from tasks._params import validate
from tasks._runtime import Runtime
from tasks.shards.stage import Params, run
from tasks.stages import Stage
from tests.stage_context import make_context, publish

SMALL: dict[str, Any] = {"tokens_per_row": 64, "val_fraction": 0.1}


def some_documents(documents: int = 300) -> pl.DataFrame:
    source = random.Random(0)
    texts = [
        " ".join(source.choices(["the", "model", "reads", "größer", "<|bos|>", "12"], k=source.choice([3, 20, 90])))
        for _ in range(documents)
    ]
    return pl.DataFrame({"id": [f"d{i:03d}" for i in range(documents)], "text": texts})


def write_documents(root: Path, frame: pl.DataFrame, files: int = 1) -> None:
    """The corpus in so many files, in place of an earlier one."""
    folder = root / "artifacts/corpus/documents"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number in range(files):
        frame.gather_every(files, number).write_parquet(folder / f"{number:05d}.parquet")


def write_tokenizer(root: Path, texts: list[str] | None = None) -> None:
    """The byte tokenizer, or one of 320 ids learned from the texts."""
    path = root / "artifacts/tokenizer/tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = "packing splits documents, training predicts tokens before it " * 3
    path.write_text(byte_tokenizer_json() if texts is None else train_tokenizer_json([*texts, extra], 320), "utf-8")


def prepare(root: Path, documents: int = 300) -> pl.DataFrame:
    frame = some_documents(documents)
    write_documents(root, frame)
    write_tokenizer(root, frame["text"].to_list())
    return frame


def context(root: Path, workers: int = 1, **values: Any) -> StageContext:
    params = validate(Params, {**SMALL, **values}, "test")
    return make_context(root, Stage.SHARDS, params, runtime=Runtime(workers=workers))


def run_stage(root: Path, workers: int = 1, **values: Any) -> Path:
    own = context(root, workers, **values)
    run(own)
    return publish(own)


def read_manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def read_rows(folder: Path, split: str) -> np.ndarray:
    manifest = read_manifest(folder)
    parts = [np.fromfile(folder / file["name"], "<u2") for file in manifest[split]["files"]]
    return np.concatenate(parts).reshape(-1, manifest["tokens_per_row"] + 1)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def recover(folder: Path, tokenizer: Tokenizer) -> dict[str, list[bytes]]:
    """The bytes of every copy of every document, read from rows and pieces alone.

    Copies may be cut in different places, so a piece continues the first copy that ends where it begins.
    """
    manifest = read_manifest(folder)
    table = pl.read_parquet(folder / "documents.parquet")
    found: dict[str, list[list[int]]] = {name: [] for name in table["id"]}
    for split in ("train", "val"):
        pieces = []
        for file in manifest[split]["files"]:
            rows = np.fromfile(folder / file["name"], manifest["dtype"]).reshape(
                file["rows"], manifest["tokens_per_row"] + 1
            )
            entries = np.load(folder / file["name"].replace(".bin", ".pieces.npy"), allow_pickle=False)
            for row, start, stop, document, offset in entries.tolist():
                assert rows[row, start] == manifest["bos_id"]
                pieces.append((document, offset, rows[row, start + 1 : stop].tolist()))
        for document, offset, ids in sorted(pieces):
            name = table["id"][document]
            assert table["split"][document] == split
            copies = found[name]
            if offset == 0:
                copies.append([])
            next(copy for copy in copies if len(copy) == offset).extend(ids)
    return {name: [tokenizer.decode_bytes(copy) for copy in copies] for name, copies in found.items()}
