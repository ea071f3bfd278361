"""Near-duplicate search: the published S-curve, the library's own search for bands, costs at scale."""

import random

import pytest

from pipeline_math.data_filtering import (
    REPETITION_HALF_LIFE,
    Bands,
    band_key_memory_bytes,
    banded_sort_seconds,
    bands_for_threshold,
    candidate_probability,
    cores_needed,
    effective_tokens,
    expected_false_share,
    expected_missed_share,
    index_insert_seconds,
    index_memory_bytes,
    jaccard_standard_error,
    largest_collection_documents,
    one_band_memory_bytes,
    processing_hours,
    raw_bytes_needed,
    signature_bytes,
    signing_seconds,
    similarity_threshold,
    trained_tokens_needed,
)


@pytest.mark.parametrize(
    ("similarity", "chance", "tolerance"),
    [(0.5, 0.053, 5e-4), (0.7, 0.56, 5e-3), (0.75, 0.77, 5e-3), (0.8, 0.924, 5e-4), (0.85, 0.988, 5e-4)],
)
def test_candidates_of_fourteen_bands_of_eight(similarity, chance, tolerance):
    assert candidate_probability(similarity, 14, 8) == pytest.approx(chance, abs=tolerance)


def test_candidate_probability_equals_a_simulation():
    """A row is equal with chance s; a pair is a candidate if all rows of one band are."""
    generator, pairs = random.Random(0), 20000
    found = sum(any(all(generator.random() < 0.6 for _ in range(3)) for _ in range(4)) for _ in range(pairs))
    assert found / pairs == pytest.approx(candidate_probability(0.6, 4, 3), abs=0.012)  # three standard errors


def test_threshold_and_error_of_the_estimate():
    assert similarity_threshold(14, 8) == pytest.approx(0.72, abs=0.005)
    worst = jaccard_standard_error(0.5, 14 * 8)
    assert worst == pytest.approx(0.047, abs=5e-4)
    assert all(jaccard_standard_error(s / 100, 112) <= worst for s in range(101))
    assert worst == pytest.approx(1 / (2 * 112**0.5))


def test_areas_move_with_the_threshold():
    assert expected_missed_share(0.8, 14, 8) < expected_missed_share(0.7, 14, 8)
    assert expected_false_share(0.8, 14, 8) > expected_false_share(0.7, 14, 8)
    # One hash compares with chance s: areas are those of triangles.
    assert expected_false_share(0.6, 1, 1) == pytest.approx(0.18)
    assert expected_missed_share(0.6, 1, 1) == pytest.approx(0.08)


@pytest.mark.parametrize(("threshold", "weight"), [(0.5, 0.5), (0.7, 0.5), (0.8, 0.1), (0.9, 0.5)])
def test_bands_equal_those_of_datasketch(threshold, weight):
    from datasketch.lsh import _optimal_param

    found = bands_for_threshold(threshold, 64, weight)
    assert (found.bands, found.rows_per_band) == _optimal_param(threshold, 64, weight, 1 - weight)
    assert found.hashes <= 64


def test_bands_may_use_every_hash_alone():
    assert bands_for_threshold(0.05, 4) == Bands(4, 1)


def test_bands_find_the_threshold_asked_for():
    for threshold in (0.5, 0.7, 0.8):
        found = bands_for_threshold(threshold, 112)
        assert similarity_threshold(found.bands, found.rows_per_band) == pytest.approx(threshold, abs=0.06)
    assert Bands(14, 8).hashes == 112


def test_cost_of_a_million_and_of_ten_million_documents():
    """An index of 1M documents takes 5.1 GB and 6 min to sign; 10M exceed 24 GB, their band keys take 1.1 GB."""
    assert index_memory_bytes(1e6, 14, 8) / 1e9 == pytest.approx(5.1, abs=0.05)
    assert signature_bytes(1, 112) == 448
    assert signing_seconds(1e6) / 60 == pytest.approx(6, abs=0.5)
    assert signing_seconds(1e6, processes=2) == signing_seconds(1e6) / 2
    assert index_insert_seconds(1e6) == pytest.approx(27)
    assert largest_collection_documents(24e9, index_memory_bytes(1, 14, 8)) < 10_000_000
    assert band_key_memory_bytes(1, 14) == 112
    assert band_key_memory_bytes(10_000_000, 14) / 1e9 == pytest.approx(1.1, abs=0.05)
    assert one_band_memory_bytes(1) == 24  # key, number, union-find entry
    assert one_band_memory_bytes(10_000_000) < band_key_memory_bytes(10_000_000, 14)
    assert index_memory_bytes(1e6, 28, 4) > index_memory_bytes(1e6, 14, 8)  # more bands, as many hashes
    assert banded_sort_seconds(10_000_000, 14, 1e7) == 14


def test_hours_and_cores_of_a_whole_collection():
    assert processing_hours(3.6e9, 1000, 10) == pytest.approx(100)
    assert processing_hours(3.6e9, 1000, 10, busy_share=0.5) == pytest.approx(200)
    assert cores_needed(3.6e9, 1000, 100) == 10
    assert cores_needed(3.6e9, 1000, 99.9) == 11


def test_raw_text_needed_undoes_filters_and_packing():
    raw = raw_bytes_needed(1e9, 4.8, kept_share=0.5, packing_dropped_share=0.35)
    assert raw * 0.5 / 4.8 * (1 - 0.35) == pytest.approx(1e9)


@pytest.mark.parametrize(("epochs", "worth", "share"), [(4, 3.73, 0.93), (16, 10.6, 0.66), (40, 15.2, 0.38)])
def test_repeated_text_is_worth_less(epochs, worth, share):
    tolerance = 0.005 if epochs == 4 else 0.05
    assert effective_tokens(1.0, epochs) == pytest.approx(worth, abs=tolerance)
    assert effective_tokens(1.0, epochs) / epochs == pytest.approx(share, abs=0.005)


def test_up_to_one_epoch_every_token_is_new():
    assert effective_tokens(1.0, 0.5) == 0.5
    assert effective_tokens(1.0, 1.0) == 1.0


def test_trained_tokens_needed_inverts_the_worth_of_repetition():
    for epochs in (0.5, 1.0, 2.0, 10.0, 60.0):
        assert trained_tokens_needed(2e9, effective_tokens(2e9, epochs * 2e9)) == pytest.approx(epochs * 2e9)
    with pytest.raises(ValueError, match=r"never worth 16\.3878 or more.*collect more text"):
        trained_tokens_needed(1.0, 1.0 + REPETITION_HALF_LIFE)
