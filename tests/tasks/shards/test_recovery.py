"""Every document comes back byte for byte from the shards: from rows and pieces alone."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model.tokenizer import Tokenizer
from tests.tasks.shards.small_corpus import (
    contents,
    prepare,
    read_manifest,
    recover,
    run_stage,
    write_documents,
    write_tokenizer,
)

DATA = Path(__file__).parents[4] / "shared" / "data"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=120) | st.integers(0, 400).map(lambda n: "ab " * n)
documents = st.lists(st.tuples(texts, st.integers(1, 3), st.sampled_from(["a", "b"])), min_size=8, max_size=25)


@settings(max_examples=25, deadline=None)  # a stage run each
@given(documents, st.sampled_from([16, 64, 300]), st.sampled_from([50, 700, 2**25]), st.sampled_from([0.0, 0.9]))
def test_every_copy_of_every_document_comes_back(
    drawn: list[tuple[str, int, str]], tokens_per_row: int, window_tokens: int, max_padding: float
) -> None:
    full = [number for number, (text, _, _) in enumerate(drawn) if text]
    assume(len(full) > 1)
    frame = pl.DataFrame(
        {
            "id": [f"d{number}" for number in range(len(drawn))],
            "text": [text for text, _, _ in drawn],
            "domain": [domain for _, _, domain in drawn],
            "repeats": pl.Series([repeats for _, repeats, _ in drawn], dtype=pl.Int32),
        }
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_documents(root, frame)
        write_tokenizer(root)
        folder = run_stage(
            root,
            tokens_per_row=tokens_per_row,
            window_tokens=window_tokens,
            max_padding_fraction=max_padding,
            val_fraction=0.4,
            seed=_seed_with_both_splits([f"d{number}" for number in full]),
        )
        found = recover(folder, Tokenizer.from_file(root / "artifacts/tokenizer/tokenizer.json"))
        table = pl.read_parquet(folder / "documents.parquet")
        manifest = read_manifest(folder)
    assert sorted(found) == sorted(frame["id"])
    wanted = dict(zip(table["id"], table["repeats"], strict=True))
    for identity, text in zip(frame["id"], frame["text"], strict=True):
        copies = [text.encode()] * wanted[identity] if text else []  # an empty document has no piece
        assert found[identity] == copies
    for split in ("train", "val"):
        own = table.filter(pl.col("split") == split)
        assert sum(domain["documents"] for domain in manifest[split]["domains"].values()) == own.height
        packed = sum(domain["tokens"] for domain in manifest[split]["domains"].values())
        assert packed == (own["tokens"] * own["repeats"]).sum()


def _seed_with_both_splits(ids: list[str]) -> int:
    import xxhash

    from tasks.shards.splitting import SPLIT, mixed

    hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in ids], np.uint64)
    for seed in range(1000):
        below = (mixed(hashes, seed, SPLIT) >> np.uint64(11)) * 2.0**-53 < 0.4
        if below.any() and not below.all():
            return seed
    raise AssertionError("no seed splits these documents")


def test_pieces_lie_row_after_row_without_gaps(tmp_path: Path) -> None:
    prepare(tmp_path)
    folder = run_stage(tmp_path, window_tokens=2000)
    manifest = read_manifest(folder)
    assert len(manifest["train"]["files"]) > 3
    for split in ("train", "val"):
        tokens = 0
        for file in manifest[split]["files"]:
            entries = np.load(folder / file["name"].replace(".bin", ".pieces.npy"), allow_pickle=False)
            assert entries.dtype.names == ("row", "start", "stop", "document", "offset")
            assert np.unique(entries["row"]).tolist() == list(range(file["rows"]))
            same = np.diff(entries["row"]) == 0
            assert (entries["start"][1:][same] == entries["stop"][:-1][same]).all()
            assert (entries["start"][1:][~same] == 0).all()
            tokens += int((entries["stop"] - entries["start"]).sum())
        assert tokens == manifest[split]["tokens"]


@pytest.mark.parametrize("workers", [1, 2])
def test_files_and_workers_do_not_matter(tmp_path: Path, workers: int) -> None:
    frame = prepare(tmp_path / "one")
    whole = contents(run_stage(tmp_path / "one", window_tokens=2000))
    write_documents(tmp_path / "three", frame.reverse(), files=3)
    write_tokenizer(tmp_path / "three", frame["text"].to_list())
    assert contents(run_stage(tmp_path / "three", workers, window_tokens=2000)) == whole


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the development data are not here")
def test_real_documents_come_back(tmp_path: Path) -> None:
    """Every 25th document of two files: prose, code, markup, twelve languages and text in broken encodings."""
    files = sorted((DATA / "corpus").glob("*.parquet"))[:2]
    frame = pl.concat([pl.read_parquet(file) for file in files]).gather_every(25)
    assert frame["domain"].n_unique() > 5
    write_documents(tmp_path, frame, files=2)
    write_tokenizer(tmp_path, frame["text"].head(20).to_list())
    tokenizer = Tokenizer.from_file(tmp_path / "artifacts/tokenizer/tokenizer.json")
    folder = run_stage(tmp_path, tokens_per_row=512, window_tokens=200_000)
    assert recover(folder, tokenizer) == {row["id"]: [row["text"].encode()] for row in frame.to_dicts()}
