"""Packing and shards: published sizes and rates, cutting against a simulation, files against real ones."""

import random

import numpy as np
import pytest

from pipeline_math.packing_io import (
    Packing,
    concatenation_split_rate,
    cut_probability,
    effective_unique_tokens,
    id_bytes,
    loader_bytes_per_second,
    loader_suffices,
    own_row_padding_share,
    row_bytes,
    rows_needed,
    shard_bytes,
    split_file_bytes,
    text_bytes_per_second,
)


def test_shards_and_rates_of_a_d12():
    assert shard_bytes(1.32e9, 32768) / 1e9 == pytest.approx(2.64, abs=0.005)
    assert loader_bytes_per_second(546e3, 32768) / 1e6 == pytest.approx(1.1, abs=0.05)
    assert text_bytes_per_second(546e3, 4.8) / 1e6 == pytest.approx(2.6, abs=0.05)
    assert not loader_suffices(1.11e6, 546e3)  # one CPU second of the upstream loader is no tenfold margin
    assert loader_suffices(5.46e6, 546e3)


def test_ids_change_width_above_65536():
    assert (id_bytes(65536), id_bytes(65537)) == (2, 4)
    assert shard_bytes(1.0e9, 65537) == 4.0e9
    assert row_bytes(512, 4096) == 1026


def test_rows_needed_with_and_without_padding():
    assert rows_needed(513, 512) == 1
    assert rows_needed(514, 512) == 2
    assert rows_needed(1000 * 513, 512) == 1000
    assert rows_needed(995 * 513, 512, padding_share=0.005) == 1000


def test_cut_documents():
    assert cut_probability(625, 2048) == pytest.approx(0.305, abs=5e-4)
    assert cut_probability(1, 2048) == 0
    assert cut_probability(5000, 2048) == 1


def test_cut_probability_equals_a_simulation_of_concatenation():
    """Documents are laid end to end over rows of T tokens: count those that lie in more than one row."""
    generator, tokens_per_row = random.Random(0), 100
    lengths = [generator.randint(1, 60) for _ in range(20000)]
    start = cut = 0
    for length in lengths:
        cut += start // tokens_per_row != (start + length - 1) // tokens_per_row
        start += length
    assert cut / len(lengths) == pytest.approx(concatenation_split_rate(lengths, tokens_per_row), abs=0.01)


def test_packing_reports_its_three_shares():
    packing = Packing(packed_tokens=650, padding_tokens=50, dropped_tokens=350, documents=10, split_documents=4)
    assert packing.utilisation == pytest.approx(650 / 700)
    assert packing.dropped_share == pytest.approx(0.35)
    assert packing.split_rate == 0.4
    assert effective_unique_tokens(1000, packing.dropped_share) == pytest.approx(packing.packed_tokens)
    assert Packing(1, 0, 0, documents=1, split_documents=1).split_rate == 1
    with pytest.raises(ValueError, match="split_documents"):
        Packing(1, 0, 0, documents=1, split_documents=2)


def test_rows_of_one_sequence_each():
    assert own_row_padding_share([513, 513], 512) == 0
    assert own_row_padding_share([100, 156.5], 512) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="split it first"):
        own_row_padding_share([514], 512)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("vocab_size", [1000, 70000])
def test_file_sizes_equal_those_written(tmp_path, vocab_size, masked):
    from model.batches import write_rows

    rows = np.zeros((37, 17), np.int64)
    info = {"vocab_size": vocab_size, "bos_id": 0, "pad_id": 1, "tokenizer_sha256": "0"}
    write_rows(tmp_path, "train", rows, rows.astype(np.uint8) if masked else None, info)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.bin"))
    assert written == split_file_bytes(37, 16, vocab_size, masked) > 0
