import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches import Batch, RowBatches, RowFolder, iterate_rows, verify_rows, write_rows

INFO = {"vocab_size": 500, "bos_id": 491, "pad_id": 499, "tokenizer_sha256": "t"}


def write(folder, rows=10, masked=False, tokens=6, split="train", **changes):
    """Rows whose second id is the row's number, so that a test can tell which rows it got."""
    ids = np.random.default_rng(0).integers(0, 490, (rows, tokens + 1))
    ids[:, 0], ids[:, 1] = 491, np.arange(rows)
    mask = np.zeros_like(ids) if masked else None
    if mask is not None:
        mask[:, 3:5] = 1
    else:
        ids[:, -2:] = 499
    write_rows(folder, split, ids, mask, INFO | changes)
    return ids


def numbers(batch):
    return batch.ids_BT[:, 1].tolist()


def test_rows_survive_the_disk_and_targets_are_shifted_by_one(tmp_path):
    ids = write(tmp_path, statistics={"tokens": 50})
    batch = next(iterate_rows(tmp_path, "train", 4))
    assert torch.equal(batch.ids_BT, torch.from_numpy(ids[:4, :-1]))
    assert torch.equal(batch.targets_BT, torch.from_numpy(ids[:4, 1:]))
    assert batch.weights_BT[0].tolist() == [1, 1, 1, 1, 0, 0]  # the padding is not a target
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["train"]["rows"] == 10
    assert manifest["train"]["tokens"] == 50


def test_a_mask_marks_targets_not_inputs(tmp_path):
    """Bug it catches: a mask off by one trains on the user's last token and never on the first of the answer."""
    ids = write(tmp_path, masked=True)
    batch = next(iterate_rows(tmp_path, "train", 1))
    assert batch.targets_BT[batch.weights_BT > 0].tolist() == ids[0, 3:5].tolist()


def test_an_epoch_visits_every_row_once_and_the_next_one_in_another_order(tmp_path):
    write(tmp_path)
    batches = RowBatches(tmp_path, "train", 4, seed=1)
    stream = [n for _ in range(5) for n in numbers(batches.next())]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:] != list(range(10))
    assert batches.epochs == 2.0
    other = RowBatches(tmp_path, "train", 10, seed=2)
    assert numbers(other.next()) != stream[:10]


def test_a_saved_position_continues_with_the_next_rows_on_any_number_of_ranks(tmp_path):
    """State counts global rows, so the number of ranks may change when a run is resumed."""
    write(tmp_path)
    alone = RowBatches(tmp_path, "train", 4, seed=1)
    for _ in range(2):
        alone.next()
    state = json.loads(json.dumps(alone.state_dict()))
    expected = [numbers(alone.next()) for _ in range(3)]  # crosses the end of the first epoch
    ranks = [RowBatches(tmp_path, "train", 2, seed=1, rank=r, world_size=2) for r in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    assert [[n for rank in ranks for n in numbers(rank.next())] for _ in range(3)] == expected


def test_a_position_in_other_rows_is_refused(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", rows=11)
    state = RowBatches(tmp_path / "a", "train", 2, seed=1).state_dict()
    with pytest.raises(ValueError, match="rows=10, these rows have rows=11"):
        RowBatches(tmp_path / "b", "train", 2, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="seed=1, these rows have seed=2"):
        RowBatches(tmp_path / "a", "train", 2, seed=2).load_state_dict(state)


def test_files_that_disagree_with_the_manifest_are_refused(tmp_path):
    write(tmp_path)
    path = tmp_path / "train_00000.bin"
    content = bytearray(path.read_bytes())
    assert verify_rows(tmp_path) == 1
    path.write_bytes(content[:-2])
    with pytest.raises(ValueError, match=r"train_00000.bin has 138 bytes; manifest.json says 140"):
        RowFolder(tmp_path, "train")
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        verify_rows(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        RowFolder(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 11}, "names 11 rows, its files hold 10"),
        ({"files": ["train_00000.bin"]}, "lists 'train_00000.bin'; needed: an object with name and rows"),
        ({"files": [{"name": "train_00000.bin"}]}, "needed: an object with name and rows"),
        ({"files": [{"name": "train_00007.bin", "rows": 10}]}, "train_00007.bin is missing"),
    ],
)
def test_a_manifest_that_does_not_describe_its_files_is_refused(tmp_path, change, message):
    write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"train": manifest["train"] | change}))
    with pytest.raises(ValueError, match=message):
        RowFolder(tmp_path, "train")


def test_a_limited_evaluation_spreads_over_the_whole_split(tmp_path):
    """Bug it catches: packing puts long documents first, so the first rows do not stand for the split."""
    write(tmp_path, rows=100)
    seen = [n for batch in iterate_rows(tmp_path, "train", 3, max_rows=10) for n in numbers(batch)]
    assert seen == list(range(0, 100, 10))


def test_many_files_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("model.row_files.ROWS_PER_FILE", 3)
    write(tmp_path)
    assert len(list(tmp_path.glob("train_*.bin"))) == 4
    assert numbers(RowFolder(tmp_path, "train").batch(np.array([9, 0, 3, 2]))) == [9, 0, 3, 2]


def test_writing_refuses_ids_outside_the_vocabulary_and_mixed_shapes(tmp_path):
    with pytest.raises(ValueError, match="do not fit vocab_size=300"):
        write(tmp_path, vocab_size=300)
    write(tmp_path)
    with pytest.raises(ValueError, match="another tokens_per_row"):
        write(tmp_path, tokens=8, split="val")
    with pytest.raises(ValueError, match="no split 'val'"):
        RowFolder(tmp_path, "val")


def test_a_large_vocabulary_gets_wider_ids(tmp_path):
    rows = np.full((2, 4), 69_999)
    write_rows(tmp_path, "train", rows, None, INFO | {"vocab_size": 70_000})
    assert next(iterate_rows(tmp_path, "train", 2)).ids_BT.max() == 69_999


def reference_batches(folder, split, rows_per_step, seed, rank, world_size, steps):
    """The loader as it was first written, row by row: what earlier training runs saw."""
    manifest = json.loads((folder / "manifest.json").read_text())
    width, dtype = manifest["tokens_per_row"] + 1, np.dtype(manifest["dtype"])
    stored = np.concatenate(
        [np.fromfile(folder / f["name"], dtype).reshape(-1, width) for f in manifest[split]["files"]]
    )
    taken = 0
    for _ in range(steps):
        first = taken + rank * rows_per_step
        taken += rows_per_step * world_size
        rows = []
        for number in range(first, first + rows_per_step):
            epoch, place = divmod(number, len(stored))
            rows.append(stored[np.random.Generator(np.random.Philox([seed, epoch])).permutation(len(stored))[place]])
        ids = torch.from_numpy(np.array(rows).astype(np.int64))
        yield ids[:, :-1], ids[:, 1:], (ids[:, 1:] != manifest["pad_id"]).float()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30),
    rows_per_step=st.integers(1, 12),
    rows_per_file=st.integers(1, 30),
    seed=st.integers(0, 3),
    world_size=st.integers(1, 3),
)
def test_batches_are_those_of_the_row_by_row_reference(rows, rows_per_step, rows_per_file, seed, world_size):
    """A faster loader must not change a training run: same rows, same order, same numbers, on any rank and files."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr("model.row_files.ROWS_PER_FILE", rows_per_file)
        write(folder, rows)
        for rank in range(world_size):
            batches = RowBatches(folder, "train", rows_per_step, seed, rank, world_size)
            for ids, targets, weights in reference_batches(folder, "train", rows_per_step, seed, rank, world_size, 6):
                batch = batches.next()
                assert torch.equal(batch.ids_BT, ids)
                assert torch.equal(batch.targets_BT, targets)
                assert torch.equal(batch.weights_BT, weights)
                assert (batch.ids_BT.dtype, batch.weights_BT.dtype) == (torch.int64, torch.float32)


def test_a_position_saved_by_an_earlier_version_continues(tmp_path):
    """It has no hash of the rows and no domain shares."""
    write(tmp_path)
    batches = RowBatches(tmp_path, "train", 4, seed=1)
    batches.next()
    expected = numbers(batches.next())
    resumed = RowBatches(tmp_path, "train", 2, seed=1)
    resumed.load_state_dict({"rows_taken": 4, "seed": 1, "rows": 10})
    assert numbers(resumed.next()) + numbers(resumed.next()) == expected


def test_a_position_in_rows_of_the_same_number_but_other_content_is_refused(tmp_path):
    write(tmp_path / "a")
    ids = write(tmp_path / "b", split="val")
    write_rows(tmp_path / "b", "train", ids[::-1].copy(), None, INFO)
    state = RowBatches(tmp_path / "a", "train", 2, seed=1).state_dict()
    with pytest.raises(ValueError, match="rows_sha256"):
        RowBatches(tmp_path / "b", "train", 2, seed=1).load_state_dict(state)


@pytest.mark.parametrize(
    "state", [{}, {"step": 3, "seed": 1, "history": []}, {"rows_taken": -1, "seed": 1, "rows": 10}]
)
def test_a_state_of_something_else_is_refused(tmp_path, state):
    """Bug it catches: a rollout's state ended in a KeyError without a word about what to do."""
    write(tmp_path)
    with pytest.raises(ValueError, match="needed: rows_taken, seed, rows; next: remove"):
        RowBatches(tmp_path, "train", 2, seed=1).load_state_dict(state)


def test_rows_without_padding_need_no_stored_weights(tmp_path):
    """All ones, seen through one number; a micro-batch and a sum see what they always saw."""
    write_rows(tmp_path, "train", np.full((4, 7), 3), None, INFO)
    batch = next(iterate_rows(tmp_path, "train", 4))
    assert batch.weights_BT.untyped_storage().nbytes() == 4
    assert batch.weights_BT.tolist() == [[1.0] * 6] * 4
    assert batch.rows(1, 3).weights_BT.flatten().tolist() == [1.0] * 12
    assert batch.weights_BT.count_nonzero() == 24


def test_document_ids_count_the_boundaries_in_a_row(tmp_path):
    """What an attention mask per document compares; computed from the ids, nothing is stored for it."""
    write_rows(tmp_path, "train", np.array([[491, 1, 491, 2, 3, 499, 499]]), None, INFO)
    batch = next(iterate_rows(tmp_path, "train", 1))
    assert batch.document_ids_BT.tolist() == [[1, 1, 2, 2, 2, 2]]
    assert batch.rows(0, 1).document_ids_BT.tolist() == [[1, 1, 2, 2, 2, 2]]
    with pytest.raises(ValueError, match="no bos_id"):
        _ = Batch(batch.ids_BT, batch.targets_BT, batch.weights_BT).document_ids_BT


def test_rows_of_another_tokenizer_and_changed_bytes_are_refused_on_demand(tmp_path):
    write(tmp_path)
    assert RowFolder(tmp_path, "train", tokenizer_sha256="t", verify=True).rows == 10
    with pytest.raises(ValueError, match="written with tokenizer t, this run uses other"):
        RowBatches(tmp_path, "train", 2, seed=0, tokenizer_sha256="other")
    path = tmp_path / "train_00000.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train_00000.bin: sha256 is .* manifest.json says"):
        RowFolder(tmp_path, "train", verify=True)


def test_row_numbers_outside_the_split_are_refused(tmp_path):
    """Bug it catches: a negative number silently read a row from the end of a file."""
    write(tmp_path)
    for bad in (-1, 10):
        with pytest.raises(ValueError, match=r"allowed: 0\.\.9"):
            RowFolder(tmp_path, "train").batch(np.array([0, bad]))
    assert len(RowFolder(tmp_path, "train").batch(np.array([], np.int64)).ids_BT) == 0


def test_an_id_outside_the_vocabulary_is_found_when_it_is_read(tmp_path):
    """A flipped bit that the hash check was not asked about must not reach the embedding."""
    ids = write(tmp_path)
    stored = ids.astype("<u2")
    stored[3, 2] = 500
    stored.tofile(tmp_path / "train_00000.bin")
    source = RowFolder(tmp_path, "train")
    assert numbers(source.batch(np.array([2]))) == [2]
    with pytest.raises(ValueError, match="holds id 500 >= 500"):
        source.batch(np.array([2, 3]))
