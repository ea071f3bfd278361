"""Histograms: fixed edges, and counts that no split of the documents can change."""

import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.report.histograms import Histograms, edges_of

NAMES = ("characters", "mean_word_characters", "digit_fraction")
VALUES = st.one_of(
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 0.3, 0.7, 1.0, 20.0, 999.0, None]),
)
ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "한국"]), VALUES, VALUES, VALUES), max_size=40)
Row = tuple[str, float | None, float | None, float | None]


def _frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"domain": pl.String} | dict.fromkeys(NAMES, pl.Float32), orient="row")


def _histograms(*parts: list[Row]) -> dict:
    found = Histograms()
    for part in parts:
        found.add(_frame(part))
    return found.as_dict()


@given(ROWS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_any_split_and_any_order_give_the_same_counts(rows: list[Row], cut: int, random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert _histograms(rows) == _histograms(shuffled[:cut], shuffled[cut:])


@given(ROWS, ROWS)
def test_merging_equals_adding_and_leaves_the_other_unchanged(left: list[Row], right: list[Row]) -> None:
    first, second = Histograms(), Histograms()
    first.add(_frame(left))
    second.add(_frame(right))
    before = second.as_dict()
    merged = pickle.loads(pickle.dumps(first))  # workers send theirs to the main process
    merged.merge(second)
    assert merged.as_dict() == _histograms(left, right)
    merged.add(_frame(left))
    assert second.as_dict() == before


@given(ROWS)
def test_every_document_is_in_one_bin_or_missing(rows: list[Row]) -> None:
    for statistic in _histograms(rows).values():
        for domain, counts in statistic["counts"].items():
            assert sum(counts) + statistic["missing"][domain] == sum(row[0] == domain for row in rows)


def test_counts_equal_numpy_histogram_inside_the_edges() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 500).astype(np.float32)
    found = Histograms()
    found.add(pl.DataFrame({"domain": ["d"] * 500, "digit_fraction": values}))
    expected, _ = np.histogram(values, edges_of("digit_fraction"))
    assert found.as_dict()["digit_fraction"]["counts"]["d"] == expected.tolist()


def test_values_outside_go_to_the_edge_bins_and_nan_and_null_to_missing() -> None:
    values = [-1.0, float("-inf"), 1.0, 1.5, float("inf"), float("nan"), None]
    found = Histograms()
    found.add(pl.DataFrame({"domain": ["d"] * 7, "digit_fraction": values}, schema_overrides={"domain": pl.String}))
    own = found.as_dict()["digit_fraction"]
    assert (own["counts"]["d"][0], own["counts"]["d"][-1], sum(own["counts"]["d"])) == (2, 3, 5)
    assert own["missing"] == {"d": 2}


@pytest.mark.parametrize("edge", [0.3, 0.58, 0.7])
def test_a_single_precision_value_at_an_edge_is_in_the_bin_above_it(edge: float) -> None:
    """As float32, 0.7 is less than the edge 0.7 in double precision and was counted one bin too low."""
    found = Histograms()
    found.add(pl.DataFrame({"domain": ["d"], "digit_fraction": np.array([edge], np.float32)}))
    assert found.as_dict()["digit_fraction"]["counts"]["d"].index(1) == round(edge * 50)


def test_edges_follow_the_kind_of_statistic() -> None:
    for name in ("digit_fraction", "language_score", "top_2gram_character_fraction", "symbols_per_word"):
        assert (edges_of(name)[0], edges_of(name)[-1], len(edges_of(name))) == (0.0, 1.0, 51), name
    assert (edges_of("mean_word_characters")[0], edges_of("mean_word_characters")[-1]) == (0.0, 20.0)
    for name in ("characters", "words", "sentences"):
        edges = edges_of(name)
        assert edges[:4].tolist() == [0.0, 1.0, 2.0, 3.0] and edges[-1] >= 1e8, name
        assert (np.diff(edges) > 0).all(), name
        assert max(edges[3:] / edges[2:-1]) <= 1.6, name  # about ten bins per decade: no wide jump


def test_text_and_integer_columns_are_no_statistics() -> None:
    found = Histograms()
    found.add(pl.DataFrame({"domain": ["d"], "language": ["en"], "key": [7], "words": [3.0]}))
    assert list(found.as_dict()) == ["words"]


def test_nothing_added_is_an_empty_report() -> None:
    found = Histograms()
    found.add(_frame([]))
    assert found.as_dict() == {}
