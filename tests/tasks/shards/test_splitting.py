"""Who is held out: hashes decide, so that other documents make no difference."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from tasks.shards.documents import DocumentTable
from tasks.shards.splitting import choose_split, hash_order, mixed


def _table(groups: list[int], sizes: list[int]) -> DocumentTable:
    count = len(groups)
    hashes = np.array(groups, np.uint64)
    return DocumentTable(
        ids=pl.Series("id", [f"d{number}" for number in range(count)], pl.String),
        domains=["text"],
        domain=np.zeros(count, np.uint32),
        identity=hashes,
        group=hashes,
        file=np.zeros(count, np.uint32),
        first=np.zeros(count, np.int64),
        tokens=np.array(sizes, np.uint32),
        bytes=np.array(sizes, np.uint32),
        repeats=np.ones(count, np.int32),
    )


documents = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 100)), min_size=1, max_size=60)


@given(documents, documents, st.integers(1, 3000))
def test_other_documents_move_none_into_validation_and_none_at_all_while_the_text_fits(
    first: list[tuple[int, int]], others: list[tuple[int, int]], max_val_bytes: int
) -> None:
    few = choose_split(_table(*map(list, zip(*first, strict=True))), 0.4, max_val_bytes, 0)
    many = choose_split(_table(*map(list, zip(*first, *others, strict=True))), 0.4, max_val_bytes, 0)
    now = many.is_val[: len(first)]
    assert not (now & ~few.is_val).any()
    assert many.fraction <= few.fraction
    if many.fraction == few.fraction:
        assert (now == few.is_val).all()


@given(documents, st.integers(1, 3000), st.integers(0, 9))
def test_documents_of_a_group_are_on_one_side_and_the_text_fits(
    drawn: list[tuple[int, int]], max_val_bytes: int, seed: int
) -> None:
    groups, sizes = [group % 7 for group, _ in drawn], [size for _, size in drawn]
    table = _table(groups, sizes)
    split = choose_split(table, 0.5, max_val_bytes, seed)
    assert int(table.bytes[split.is_val].sum()) <= max_val_bytes
    sides: dict[int, set[bool]] = {}
    for group, side in zip(groups, split.is_val.tolist(), strict=True):
        sides.setdefault(group, set()).add(side)
    assert all(len(side) == 1 for side in sides.values())


def test_the_share_held_out_is_the_fraction_and_halves_until_it_fits() -> None:
    count = 20_000
    table = _table(list(range(count)), [10] * count)  # consecutive "hashes": mixing has to spread them
    whole = choose_split(table, 0.1, 10 * count, 0)
    assert whole.fraction == 0.1
    assert abs(whole.is_val.mean() - 0.1) < 0.007  # over three standard deviations of 20,000 draws
    third = choose_split(table, 0.1, 10 * count // 30, 0)
    assert third.fraction == 0.025
    assert not (third.is_val & ~whole.is_val).any()


def test_a_document_larger_than_the_limit_leaves_validation_empty() -> None:
    split = choose_split(_table([0, 1, 2], [50, 50, 50]), 0.9, 49, 0)
    assert not split.is_val.any()


def test_order_and_split_depend_on_the_seed_and_not_on_each_other() -> None:
    table = _table(list(range(4000)), [1] * 4000)
    first, second = hash_order(table, 0), hash_order(table, 1)
    assert sorted(first) == list(range(4000))
    assert not np.array_equal(first, second)
    is_val = choose_split(table, 0.5, 10**6, 0).is_val
    assert abs(is_val[first[:2000]].mean() - 0.5) < 0.05  # held out documents are not those packed first


def test_hashes_stay_distinct() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64)
    assert len(np.unique(mixed(hashes, 3, 1))) == len(np.unique(hashes))
