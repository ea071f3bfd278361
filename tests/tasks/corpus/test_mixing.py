"""Shares asked for and obtained, within what the text allows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline_math.data_filtering import effective_tokens
from tasks._errors import StageError
from tasks._params import validate
from tasks.corpus.mixing import Mixing, fill, mix

NAMES = ["books", "code", "web"]
Corpus = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """(domain codes, sizes, keys) of at least one document in every domain."""
    count = draw(st.integers(3, 40))
    extra = st.lists(st.integers(0, 2), min_size=count - 3, max_size=count - 3)
    codes = np.array([0, 1, 2, *draw(extra)], np.int64)
    sizes = np.array(draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count)), np.int64)
    keys = draw(st.lists(st.integers(0, 2**64 - 1), min_size=count, max_size=count, unique=True))
    return codes, sizes, np.array(keys, np.uint64)


parameters = st.builds(
    lambda weights, epochs, total, seed: Mixing(
        weights=dict(zip(NAMES, weights, strict=True)), max_epochs=epochs, bytes=total, seed=seed
    ),
    st.tuples(*[st.sampled_from([0.0, 0.1, 1.0, 7.0])] * 3).filter(any),
    st.sampled_from([1.0, 1.5, 4.0]),
    st.one_of(st.none(), st.integers(2000, 100_000)),
    st.integers(0, 3),
)


def _sums(codes: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[int]:
    return [int(sizes[codes == code].sum()) for code in range(len(NAMES))]


@settings(max_examples=200, deadline=None)
@given(corpora(), parameters)
def test_targets_are_met_within_half_a_document_and_the_cap_is_obeyed(corpus: Corpus, params: Mixing) -> None:
    codes, sizes, keys = corpus
    repeats, rows = mix(codes, NAMES, sizes, keys, params)
    available, obtained = _sums(codes, sizes), _sums(codes, sizes * repeats)
    wanted = [params.weights[name] for name in NAMES]
    asked = params.bytes or sum(a for a, w in zip(available, wanted, strict=True) if w)
    target = fill(params.weights, {n: params.max_epochs * a for n, a in zip(NAMES, available, strict=True)}, asked)
    assert [row["domain"] for row in rows] == NAMES
    for code, (name, row) in enumerate(zip(NAMES, rows, strict=True)):
        largest = int(sizes[codes == code].max())
        assert obtained[code] <= params.max_epochs * available[code]
        # Half of the document at the boundary; the whole of it where rounding up would break the cap.
        at_cap = obtained[code] + largest > params.max_epochs * available[code]
        assert abs(obtained[code] - target[name]) <= (largest if at_cap else largest / 2) + 1e-6
        assert (row["available_bytes"], row["obtained_bytes"]) == (available[code], obtained[code])
        own = repeats[codes == code]
        assert own.max() - own.min() <= 1  # whole copies first
        if params.weights[name] == 0:
            assert not own.any()
        if obtained[code]:
            worth = effective_tokens(available[code], obtained[code])
            assert row["repeated_worth"] == pytest.approx(worth / obtained[code])
    reachable = params.max_epochs * sum(a for a, w in zip(available, wanted, strict=True) if w)
    assert sum(target.values()) == pytest.approx(min(asked, reachable))
    assert sum(row["obtained_share"] for row in rows) == pytest.approx(1)
    assert sum(row["asked_share"] for row in rows) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(corpora(), parameters, st.randoms(use_true_random=False))
def test_permuting_documents_or_domain_names_permutes_the_result(corpus: Corpus, params: Mixing, source: Any) -> None:
    codes, sizes, keys = corpus
    repeats, rows = mix(codes, NAMES, sizes, keys, params)
    order = list(range(len(codes)))
    source.shuffle(order)
    names = list(NAMES)
    source.shuffle(names)
    renamed = np.array([names.index(NAMES[code]) for code in codes[order]])
    again, same_rows = mix(renamed, names, sizes[order], keys[order], params)
    assert np.array_equal(again, repeats[order])
    assert same_rows == rows


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), st.integers(0, 10**12)), min_size=1, max_size=8),
    st.integers(0, 10**13),
)
def test_filling_gives_all_there_is_and_treats_the_open_ones_by_weight(
    domains: list[tuple[float, int]], total: int
) -> None:
    weights = {str(number): weight for number, (weight, _) in enumerate(domains)}
    capacities = {str(number): float(capacity) for number, (_, capacity) in enumerate(domains)}
    given_bytes = fill(weights, capacities, total)
    reachable = sum(capacities[name] for name in weights if weights[name] > 0)
    assert sum(given_bytes.values()) == pytest.approx(min(total, reachable), rel=1e-9, abs=1e-3)
    assert all(0 <= given_bytes[name] <= capacities[name] for name in weights)
    levels = {name: given_bytes[name] / weights[name] for name in weights if weights[name] > 0}
    unfilled = [name for name in levels if given_bytes[name] < capacities[name]]
    for name in unfilled:  # all below their capacity stand at one level, and none above it
        assert levels[name] == pytest.approx(max(levels.values()), rel=1e-6, abs=1e-3)


def test_a_small_domain_stops_at_the_cap_and_the_others_take_the_rest_by_weight() -> None:
    """Shares of 3:1:1 of 100,000 bytes; books hold 10,000, so 40,000 at four epochs, and 60,000 go to the others."""
    codes = np.repeat([0, 1, 2], [100, 300, 600])
    keys = np.arange(1000, dtype=np.uint64)
    params = Mixing(weights={"books": 3, "code": 1, "web": 1}, bytes=100_000)
    repeats, rows = mix(codes, NAMES, np.full(1000, 100), keys, params)
    assert [row["obtained_bytes"] for row in rows] == [40_000, 30_000, 30_000]
    assert set(repeats[codes == 0]) == {4}
    assert set(repeats[codes == 1]) == {1}
    assert [row["epochs"] for row in rows] == [4.0, 1.0, 0.5]
    assert [row["asked_share"] for row in rows] == pytest.approx([0.6, 0.2, 0.2])
    assert rows[0]["asked_bytes"] == 60_000 > rows[0]["target_bytes"] == 40_000
    assert rows[0]["repeated_worth"] == pytest.approx(0.93, abs=0.005)
    assert rows[1]["repeated_worth"] == rows[2]["repeated_worth"] == 1


def test_defaults_take_every_document_once() -> None:
    source = np.random.Generator(np.random.PCG64(0))
    codes, sizes = source.integers(0, 3, 5000), source.integers(1, 10**6, 5000)
    repeats, rows = mix(codes, NAMES, sizes, source.integers(0, 2**64, 5000, np.uint64), Mixing())
    assert set(repeats) == {1}
    assert all(row["asked_share"] == pytest.approx(row["obtained_share"]) for row in rows)


def test_the_star_stands_for_all_domains_not_named_in_proportion_to_their_bytes() -> None:
    codes = np.repeat([0, 1, 2], [400, 300, 100])
    params = Mixing(weights={"books": 1, "*": 1}, bytes=40_000)
    _, rows = mix(codes, NAMES, np.full(800, 100), np.arange(800, dtype=np.uint64), params)
    assert [row["obtained_bytes"] for row in rows] == [20_000, 15_000, 5_000]


def test_the_seed_chooses_other_documents_and_neighbouring_keys_are_spread() -> None:
    codes, keys = np.zeros(4000, int), np.arange(4000, dtype=np.uint64)
    chosen = [mix(codes, ["a"], np.ones(4000, int), keys, Mixing(bytes=2000, seed=seed))[0] for seed in (0, 0, 1)]
    assert np.array_equal(chosen[0], chosen[1])
    agreement = (chosen[0] == chosen[2]).mean()
    assert agreement == pytest.approx(0.5, abs=0.04)  # five standard errors of a coin
    assert chosen[0][:2000].mean() == pytest.approx(0.5, abs=0.06)


def test_a_larger_total_keeps_the_documents_of_a_smaller_one() -> None:
    codes, sizes = np.zeros(500, int), np.arange(1, 501)
    keys = np.arange(500, dtype=np.uint64)
    few, more = (mix(codes, ["a"], sizes, keys, Mixing(bytes=total))[0] for total in (30_000, 60_000))
    assert 0 < few.sum() < more.sum()
    assert (more >= few).all()


def test_unknown_and_missing_domains_are_named() -> None:
    arguments = (np.array([0, 1, 2]), NAMES, np.array([5, 5, 5]), np.arange(3, dtype=np.uint64))
    with pytest.raises(StageError, match=r"no document is of domain 'bokos'; .*exist: books, code, web; next"):
        mix(*arguments, Mixing(weights={"bokos": 1, "*": 1}))
    with pytest.raises(StageError, match=r"no weight for domain 'code', 'web'.*add '\*': 0 to leave them out"):
        mix(*arguments, Mixing(weights={"books": 1}))
    repeats, _ = mix(*arguments, Mixing(weights={"books": 1, "*": 0}))
    assert repeats.tolist() == [1, 0, 0]


def test_a_mixture_of_nothing_is_an_error() -> None:
    arguments = (np.array([0, 0]), NAMES, np.array([50, 50]), np.arange(2, dtype=np.uint64))
    with pytest.raises(StageError, match=r"none of 2 documents \(100 bytes\) is in the mixture; asked: 7 bytes"):
        mix(*arguments, Mixing(bytes=7))
    with pytest.raises(StageError, match="asked: 0 bytes"):
        mix(*arguments, Mixing(weights={"code": 1, "*": 0}))


@pytest.mark.parametrize(
    "values",
    [
        {"weights": {}},
        {"weights": {"a": 0}},
        {"weights": {"a": -1}},
        {"weights": {"a": float("nan")}},
        {"max_epochs": 0.5},
        {"bytes": 0},
        {"epochs": 2},
    ],
)
def test_parameters_without_meaning_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="invalid parameter"):
        validate(Mixing, values, "params.yaml: corpus.mixing")
