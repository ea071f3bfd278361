"""Rows with pieces and a table of documents, written by hand as the shards stage lays them out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl

from model.batches import write_rows

PIECE = np.dtype([("row", "<u4"), ("start", "<u2"), ("stop", "<u2"), ("document", "<u4"), ("offset", "<u4")])


def write_pieces(folder: Path, documents, rows, tokens_per_row, info, rows_per_file=1000):
    """`documents`: (id, ids, domain), sorted by id. `rows`: lists of (document number, start, stop) in its tokens."""
    width = tokens_per_row + 1
    packed = np.full((len(rows), width), info["pad_id"])
    entries = []
    for number, row in enumerate(rows):
        at = 0
        for document, start, stop in row:
            ids = [info["bos_id"], *documents[document][1][start:stop]]
            packed[number, at : at + len(ids)] = ids
            entries.append((number, at, at + len(ids), document, start))
            at += len(ids)
    write_rows(folder, "train", packed, None, info)
    manifest = json.loads((folder / "manifest.json").read_text())
    first = 0
    for file in manifest["train"]["files"]:
        own = [(e[0] - first, *e[1:]) for e in entries if first <= e[0] < first + file["rows"]]
        path = folder / file["name"].replace(".bin", ".pieces.npy")
        np.save(path, np.array(own, PIECE))
        file["pieces_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        first += file["rows"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    pl.DataFrame(
        {
            "id": [d[0] for d in documents],
            "split": ["train"] * len(documents),
            "tokens": [len(d[1]) for d in documents],
            "repeats": [1] * len(documents),
            "domain": [d[2] for d in documents],
        }
    ).write_parquet(folder / "documents.parquet")
    return packed
