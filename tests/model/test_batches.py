import json

import numpy as np
import pytest
import torch

from model.batches import RowBatches, RowFolder, iterate_rows, verify_rows, write_rows

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


def test_a_limited_evaluation_spreads_over_the_whole_split(tmp_path):
    """Bug it catches: packing puts long documents first, so the first rows do not stand for the split."""
    write(tmp_path, rows=100)
    seen = [n for batch in iterate_rows(tmp_path, "train", 3, max_rows=10) for n in numbers(batch)]
    assert seen == list(range(0, 100, 10))


def test_many_files_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("model.batches.ROWS_PER_FILE", 3)
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
