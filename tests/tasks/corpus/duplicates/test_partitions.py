"""Records grouped by key, in memory or through files."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.corpus.duplicates.partitions import WORKING_BYTES, partitions, records, repeated_keys

KEYS = st.lists(st.sampled_from([0, 1, 2**63, 2**63 + 1, 2**64 - 1, 0x9E3779B97F4A7C15]), max_size=40)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(KEYS, st.integers(1, 7), st.sampled_from([1 << 30, 200, 1]))
def test_every_record_comes_once_and_every_key_in_one_part(tmp_path, keys: list[int], step: int, memory: int) -> None:
    everything = records(np.array(keys, np.uint64), np.arange(len(keys)))
    chunks = (everything[first : first + step] for first in range(0, len(keys), step))
    parts = list(partitions(chunks, len(keys), tmp_path / "parts", memory))
    assert sorted(n for part in parts for n in part["number"].tolist()) == list(range(len(keys)))
    assert all(keys[number] == key for part in parts for key, number in part.tolist())
    assert sum(len(np.unique(part["key"])) for part in parts) == len(set(keys))
    assert not list(tmp_path.glob("parts/*"))


@pytest.mark.parametrize("partition_count", [1, 2, 8])
def test_parts_are_as_small_as_the_memory(tmp_path, partition_count: int) -> None:
    keys = np.arange(2**10, dtype=np.uint64) << np.uint64(54)  # evenly spread
    memory = 2**10 * WORKING_BYTES // partition_count
    parts = list(partitions(iter([records(keys, np.arange(2**10))]), 2**10, tmp_path, memory))
    assert [len(part) for part in parts] == [2**10 // partition_count] * partition_count


@given(KEYS)
def test_repeated_keys_are_all_records_of_keys_that_occur_twice(keys: list[int]) -> None:
    found = repeated_keys(records(np.array(keys, np.uint64), np.arange(len(keys))))
    assert found["key"].tolist() == sorted(key for key in keys if keys.count(key) > 1)
    assert sorted(found["number"].tolist()) == [i for i, key in enumerate(keys) if keys.count(key) > 1]
