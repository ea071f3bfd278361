"""The index of kept documents: what is stored comes back, grows by parts, and nothing foreign or damaged is used."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import _words
from tasks._errors import StageError
from tasks._words import hash_words
from tasks.corpus.duplicates import index as module
from tasks.corpus.duplicates.index import find_exact, open_index, save_index
from tasks.corpus.duplicates.minhash import exact_keys, signatures
from tasks.corpus.duplicates.near_duplicates import near_earlier

PLENTY, TINY = 1 << 30, 500
FIRST = ["a text of the first crawl", "another text of the first crawl", "!!!"]
SECOND = ["a text of the second crawl"]


def _keys(texts: list[str]) -> np.ndarray:
    return exact_keys(pl.Series(texts, dtype=pl.String), hash_words(texts))


def _save(folder: Path, texts: list[str]) -> Path:
    ids = [f"id:{text}" for text in texts]
    return save_index(folder, ids, _keys(texts), signatures(hash_words(texts)))


def test_parts_come_back_as_one_table(tmp_path) -> None:
    parts = sorted([(_save(tmp_path, FIRST), FIRST), (_save(tmp_path, SECOND), SECOND)])
    texts = [text for _, part in parts for text in part]
    index = open_index(tmp_path)
    assert (index.documents, index.starts.tolist()) == (4, [0, len(parts[0][1]), 4])
    assert index.ids(np.array([3, 0, 3, 1])) == [f"id:{texts[i]}" for i in (3, 0, 3, 1)]
    rows = np.concatenate([np.load(path) for path in index.signature_files])
    assert np.array_equal(rows, signatures(hash_words(texts)))
    assert not list(tmp_path.glob(".*"))


def test_the_same_documents_again_add_nothing_and_blocks_equal_one_table(tmp_path) -> None:
    part = _save(tmp_path, FIRST)
    before = {path.name: path.read_bytes() for path in part.iterdir()}
    rows = signatures(hash_words(FIRST))
    again = save_index(tmp_path, pl.Series([f"id:{t}" for t in FIRST]), _keys(FIRST), iter([rows[:1], rows[1:]]))
    assert again == part
    assert {path.name: path.read_bytes() for path in part.iterdir()} == before
    assert open_index(tmp_path).documents == 3
    assert save_index(tmp_path, ["other", "ids", "here"], _keys(FIRST), rows) != part


@pytest.mark.parametrize("memory_bytes", [PLENTY, TINY])
def test_a_later_crawl_finds_exact_and_near_copies(tmp_path, memory_bytes: int) -> None:
    long = " ".join(f"word{i}" for i in range(200))
    _save(tmp_path, [*FIRST, long])
    _save(tmp_path, SECOND)
    later = ["A TEXT of the second crawl!", "new", "???", "!!!", "a text of the first crawl", f"{long} and more"]
    index = open_index(tmp_path)
    candidate = np.array([True] * 4 + [False, True])
    exact = find_exact(index, _keys(later), candidate, tmp_path, memory_bytes)
    assert [index.ids(exact[[i]])[0] if exact[i] >= 0 else "" for i in range(6)] == [
        *("id:a text of the second crawl", "", "", "id:!!!", "", "")
    ]
    np.save(tmp_path / "signatures.npy", signatures(hash_words(later)))
    near = near_earlier(index.signature_files, [tmp_path / "signatures.npy"], candidate, 0.7, tmp_path, memory_bytes)
    assert near.earlier[0] == exact[0] and near.similarity[0] == 1
    assert index.ids(near.earlier[[5]]) == [f"id:{long}"] and near.similarity[5] > 0.9
    assert near.earlier[1:5].tolist() == [-1] * 4


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.booleans()), max_size=20),
)
def test_exact_matches_need_both_halves_of_the_key(tmp_path_factory, old, new) -> None:
    folder = tmp_path_factory.mktemp("index")
    rows = np.zeros((len(old), 112), np.uint32)
    save_index(folder, [str(i) for i in range(len(old))], np.array(old, np.uint64).reshape(-1, 2), rows)
    keys = np.array([pair[:2] for pair in new], np.uint64).reshape(-1, 2)
    candidate = np.array([pair[2] for pair in new], bool)
    found = find_exact(open_index(folder), keys, candidate, folder, PLENTY)
    assert found.tolist() == [old.index(pair[:2]) if pair[2] and pair[:2] in old else -1 for pair in new]


def test_a_folder_without_parts_is_an_error_not_an_empty_index(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "misspelt"):
        with pytest.raises(StageError, match=r"holds no part of an index.*next: correct the path"):
            open_index(folder)


@pytest.mark.parametrize("name", [module.IDS, module.KEYS, module.SIGNATURES, module.MANIFEST])
def test_truncated_damaged_and_missing_files_are_named(tmp_path, name: str) -> None:
    path = _save(tmp_path, FIRST) / name
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] if name != module.MANIFEST else sound[: len(sound) // 2])
    with pytest.raises(StageError, match=f"{path.parent.name}.*{name.split('.')[0]}.*next: restore"):
        open_index(tmp_path, verify=False)
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    if name != module.MANIFEST:
        with pytest.raises(StageError, match=f"{name} is damaged"):
            open_index(tmp_path)
    path.unlink()
    with pytest.raises(StageError, match=name):
        open_index(tmp_path)
    path.write_bytes(sound)
    assert open_index(tmp_path).documents == 3


@pytest.mark.parametrize("key", ["format", "kernel", "scheme", "permutations_sha256", "shingle_words"])
def test_an_index_of_other_hashes_is_refused(tmp_path, key: str) -> None:
    manifest = _save(tmp_path, FIRST) / module.MANIFEST
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "datasketch": "3.0.0"}))
    assert open_index(tmp_path).documents == 3  # the version alone says nothing
    manifest.write_text(json.dumps({**content, key: "legacy"}))
    with pytest.raises(StageError, match=f"made with other hashes: {key} 'legacy' .allowed: .*next: rebuild"):
        open_index(tmp_path)


def test_a_changed_kernel_refuses_what_the_former_one_wrote(tmp_path, monkeypatch) -> None:
    _save(tmp_path, FIRST)
    monkeypatch.setattr(module, "KERNEL_VERSION", _words.KERNEL_VERSION + 1)
    with pytest.raises(StageError, match=r"kernel 1 .allowed: 2"):
        open_index(tmp_path)


def test_an_interrupted_part_does_not_count(tmp_path) -> None:
    part = _save(tmp_path, FIRST)
    shutil.copytree(part, tmp_path / ".part.123")
    assert open_index(tmp_path).parts == (part,)


def test_unequal_lengths_are_refused_and_leave_no_part(tmp_path) -> None:
    rows = signatures(hash_words(FIRST))
    for ids, keys, table in (
        (["a"], _keys(FIRST), rows[:1]),
        (["a", "b", "c"], _keys(FIRST), rows[:2]),
        (["a", "b"], _keys(FIRST)[:2], rows),
    ):
        with pytest.raises(ValueError, match="ids"):
            save_index(tmp_path, ids, keys, table)
    assert not list(tmp_path.glob("part-*"))
