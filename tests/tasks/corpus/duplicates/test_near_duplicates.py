"""Clusters of near duplicates: right ones, the same for any order, memory and number of workers."""

import itertools
import random
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks._words import hash_words
from tasks.corpus.duplicates import near_duplicates, partitions
from tasks.corpus.duplicates.minhash import exact_keys, exact_winners, jaccard, shingle_sets, signatures
from tasks.corpus.duplicates.near_duplicates import Clusters, near_clusters, near_earlier

DATA = Path(__file__).parents[5] / "shared" / "data" / "corpus"
VOCABULARY = [f"word{i}" for i in range(500)]
PLENTY = 1 << 30
TINY = 2000
"""Memory for about thirty records: everything else goes through files."""


def _texts(count: int, words: int, seed: int = 0) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(VOCABULARY, k=words)) for _ in range(count)]


def _changed(text: str, words: int, seed: int) -> str:
    """The text with some of its words replaced."""
    source, parts = random.Random(seed), text.split()
    for place in source.sample(range(len(parts)), words):
        parts[place] = f"other{source.randrange(10**9)}"
    return " ".join(parts)


def _family(seed: int) -> list[str]:
    """Texts, their versions in growing distance, and texts of few or no words."""
    first = _texts(4, 120, seed)
    versions = [_changed(text, k, seed + k) for text in first for k in range(1, 6)]
    return [*first, *versions, "", "!!!", "...", "one", "one", "four words are here", "four words are here", *first[:2]]


def _files_of(texts: list[str], folder: Path, bounds: Iterable[int] = ()) -> list[Path]:
    rows = signatures(hash_words(texts))
    paths = []
    for number, part in enumerate(np.split(rows, sorted(bounds))):
        paths.append(folder / f"signatures-{number}.npy")
        np.save(paths[-1], part)
    return paths


def _cluster(
    texts: list[str],
    folder: Path,
    rank: Iterable[int] | None = None,
    candidate: Iterable[bool] | None = None,
    memory_bytes: int = PLENTY,
    min_jaccard: float = 0.7,
    bounds: Iterable[int] = (),
    executor: ProcessPoolExecutor | None = None,
) -> Clusters:
    sets = shingle_sets(hash_words(texts))
    return near_clusters(
        _files_of(texts, folder, bounds),
        np.array(range(len(texts)) if rank is None else rank, np.int64),
        np.array([True] * len(texts) if candidate is None else candidate, bool),
        min_jaccard,
        lambda numbers: ((number, sets[number]) for number in numbers.tolist()),
        folder,
        memory_bytes,
        executor,
    )


def test_planted_near_copies_are_found_and_others_are_not(tmp_path) -> None:
    texts = _texts(40, 200)
    copies = [_changed(text, 1, seed) for seed, text in enumerate(texts)]  # one word of 200: Jaccard about 0.95
    clusters = _cluster(texts + copies, tmp_path)
    assert clusters.winner.tolist() == [*range(40), *range(40)]
    assert clusters.cluster.tolist() == clusters.winner.tolist()
    sets = shingle_sets(hash_words(texts + copies))
    for number, winner in enumerate(clusters.winner.tolist()):
        assert clusters.similarity[number] == np.float32(jaccard(sets[number], sets[winner]))
    assert clusters.similarity[40:].min() > 0.9 and clusters.similarity[40:].max() < 1
    assert not list(tmp_path.glob("near*"))  # scratch files are gone


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.integers(0, 3), st.sampled_from([PLENTY, TINY]))
def test_another_order_or_other_files_permute_the_result(tmp_path, source, seed: int, memory_bytes: int) -> None:
    texts = _family(seed)
    rank = source.sample(range(10**6), len(texts))
    candidate = [source.random() < 0.9 for _ in texts]
    order = source.sample(range(len(texts)), len(texts))
    straight = _cluster(texts, tmp_path, rank, candidate)
    shuffled = _cluster(
        [texts[i] for i in order],
        tmp_path,
        [rank[i] for i in order],
        [candidate[i] for i in order],
        memory_bytes,
        bounds=[source.randrange(len(texts) + 1) for _ in range(3)],
    )
    assert (straight.winner != np.arange(len(texts))).any()
    number = np.array(order)
    assert np.array_equal(number[shuffled.winner], straight.winner[number])
    assert np.array_equal(number[shuffled.cluster], straight.cluster[number])
    assert np.array_equal(shuffled.similarity, straight.similarity[number])


def test_spilled_partitions_and_workers_give_the_same_clusters(tmp_path, monkeypatch) -> None:
    texts = _family(1) + _family(2)
    straight = _cluster(texts, tmp_path)
    spilled = []
    real = partitions.Path.write_bytes
    monkeypatch.setattr(partitions.Path, "write_bytes", lambda path, data: (spilled.append(path), real(path, data))[1])
    for memory_bytes in (TINY, TINY // 4):
        again = _cluster(texts, tmp_path, memory_bytes=memory_bytes, bounds=[7, 30])
        assert all(np.array_equal(a, b) for a, b in zip(straight, again, strict=True))
    assert len(spilled) > 14 * 2
    monkeypatch.undo()
    with ProcessPoolExecutor(2) as executor:
        again = _cluster(texts, tmp_path, bounds=[5], executor=executor)
    assert all(np.array_equal(a, b) for a, b in zip(straight, again, strict=True))


def test_the_best_ranked_candidate_wins_and_rejected_documents_take_no_part(tmp_path) -> None:
    text = _texts(1, 100)[0]
    texts = [text, _changed(text, 1, 0), _changed(text, 1, 1), _changed(text, 1, 2)]
    assert _cluster(texts, tmp_path, rank=[5, 7, 2, 9]).winner.tolist() == [2, 2, 2, 2]
    without = _cluster(texts, tmp_path, rank=[5, 7, 2, 9], candidate=[True, True, False, True])
    assert without.winner.tolist() == [0, 0, 2, 0]
    assert without.similarity[2] == 1


def test_versions_that_drifted_apart_share_a_cluster_but_not_one_winner(tmp_path, monkeypatch) -> None:
    """The bug: of a chain only the best stayed, though most of its members had little in common with it."""
    first = _texts(1, 300)[0].split()
    chain = [" ".join([*[f"new{i}" for i in range(k)], *first[k:]]) for k in range(0, 240, 20)]
    sets = shingle_sets(hash_words(chain))
    assert jaccard(sets[0], sets[-1]) < 0.2
    clusters = _cluster(chain, tmp_path)
    assert set(clusters.cluster.tolist()) == {0}
    winners = sorted(set(clusters.winner.tolist()))
    assert 1 < len(winners) < len(chain)
    assert clusters.similarity.min() >= 0.7
    assert all(jaccard(sets[a], sets[b]) < 0.7 for a, b in itertools.combinations(winners, 2))
    assert [_cluster(chain[::-1], tmp_path).similarity.min() >= 0.7] == [True]
    monkeypatch.setattr(near_duplicates, "MAX_WINNERS", 1)
    bounded = _cluster(chain, tmp_path)
    assert set(bounded.winner.tolist()) == {0}
    assert bounded.similarity[-1] == np.float32(jaccard(sets[0], sets[-1]))


def test_candidates_below_the_threshold_stay_apart(tmp_path) -> None:
    """Half-equal texts meet in some band by chance; only the verification keeps them apart."""
    texts = _texts(60, 100)
    halves = [" ".join([*text.split()[:85], *other.split()[85:]]) for text, other in itertools.pairwise(texts)]
    removed = []
    for limit in (0.1, 0.9):
        clusters = _cluster(texts + halves, tmp_path, min_jaccard=limit)
        removed.append(int((clusters.winner != np.arange(len(texts + halves))).sum()))
    assert removed[0] > 0
    assert removed[1] == 0


def test_the_true_similarity_decides_not_the_estimate(tmp_path) -> None:
    """Among many pairs near the threshold estimates err on both sides; no removal and no winner may show it."""
    texts = _texts(150, 200)
    copies = [_changed(text, 7, seed) for seed, text in enumerate(texts)]  # Jaccard about 0.7
    sets = shingle_sets(hash_words(texts + copies))
    rows = signatures(hash_words(texts + copies))
    removed = _cluster(texts + copies, tmp_path).winner[150:] != np.arange(150, 300)
    true = np.array([jaccard(sets[i], sets[i + 150]) for i in range(150)])
    estimate = (rows[:150] == rows[150:]).mean(axis=1)
    assert 0 < (true >= 0.7).sum() < 150
    assert not removed[true < 0.7].any()
    assert ((estimate >= 0.7) & (true < 0.7)).any()
    assert removed[(true >= 0.7) & (estimate < 0.7)].any()


def test_texts_without_words_are_nobodys_duplicates_and_short_ones_are(tmp_path) -> None:
    clusters = _cluster(["", "!!!", "?", "one", "one", "two", "a b c", "a b c", "a b d"], tmp_path)
    assert clusters.winner.tolist() == [0, 1, 2, 3, 3, 5, 6, 6, 8]


def test_very_many_copies_cost_one_comparison_each(tmp_path, monkeypatch) -> None:
    """The bug: pairs of a large group grow with its square, or are verified in every band again."""
    copies, compared = 30_000, []
    real = near_duplicates.jaccards
    monkeypatch.setattr(
        near_duplicates, "jaccards", lambda folder, a, b: (compared.append(len(a)), real(folder, a, b))[1]
    )
    own = shingle_sets(hash_words(["the same words in every one of these documents"]))[0]
    path = tmp_path / "signatures.npy"
    np.save(path, np.repeat(signatures(hash_words(["the same words in every one of these documents"])), copies, axis=0))
    start = time.monotonic()
    clusters = near_clusters(
        [path],
        np.arange(copies)[::-1].copy(),
        np.ones(copies, bool),
        0.7,
        lambda numbers: ((number, own) for number in numbers.tolist()),
        tmp_path,
        PLENTY,
    )
    assert (clusters.winner == copies - 1).all()
    assert sum(compared) == copies - 1
    assert time.monotonic() - start < 30  # a square would take hours


def test_neighbours_are_compared_where_the_leader_is_unlike_both(tmp_path) -> None:
    """Three documents share one band only; the best-ranked has nothing else in common with the other two."""
    rows = np.random.default_rng(0).integers(0, 2**32, (3, 112), np.uint32)
    rows[2] = rows[1]
    rows[2, ::8] += 1  # one component in every band
    rows[:, :8] = 7
    path = tmp_path / "signatures.npy"
    np.save(path, rows)
    sets = [np.arange(100, dtype=np.uint32), np.arange(500, 600, dtype=np.uint32), np.arange(505, 605, dtype=np.uint32)]
    clusters = near_clusters(
        [path],
        np.arange(3),
        np.ones(3, bool),
        0.7,
        lambda numbers: ((number, sets[number]) for number in numbers.tolist()),
        tmp_path,
        PLENTY,
    )
    assert clusters.winner.tolist() == [0, 1, 1]
    assert clusters.similarity[2] == np.float32(95 / 105)


def test_nothing_and_no_candidate_have_no_clusters(tmp_path) -> None:
    assert _cluster([], tmp_path).winner.tolist() == []
    assert _cluster(["a b c", "a b c"], tmp_path, candidate=[False, False]).winner.tolist() == [0, 1]


def test_broken_promises_of_the_caller_are_refused(tmp_path) -> None:
    texts = ["a b c d e f", "a b c d e f"]
    with pytest.raises(ValueError, match="ranks must be distinct"):
        _cluster(texts, tmp_path, rank=[1, 1])
    paths, rank, both = _files_of(texts, tmp_path), np.arange(2), np.ones(2, bool)
    own = shingle_sets(hash_words(texts))
    for given_sets, message in (
        ([(0, own[0])], "ended after 1 of 2"),
        ([(1, own[1]), (0, own[0])], "gave document 1; asked for: 0"),
        ([(0, own[0]), (1, own[1]), (2, own[1])], "gave document 2; asked for: none"),
    ):
        with pytest.raises(ValueError, match=message):
            near_clusters(paths, rank, both, 0.7, lambda _, sets=given_sets: iter(sets), tmp_path, PLENTY)
    with pytest.raises(ValueError, match="hold 2 documents; candidates: 3"):
        near_clusters(paths, np.arange(3), np.ones(3, bool), 0.7, lambda _: iter(()), tmp_path, PLENTY)


@pytest.mark.parametrize("memory_bytes", [PLENTY, TINY])
def test_later_documents_find_the_earlier_ones_they_resemble(tmp_path, memory_bytes: int) -> None:
    earlier, fresh = _texts(30, 200), _texts(20, 200, seed=9)
    new = [*fresh, *[_changed(text, 2, seed) for seed, text in enumerate(earlier)], "", earlier[3]]
    (tmp_path / "old").mkdir()
    old_files, new_files = _files_of([*earlier, ""], tmp_path / "old", [11]), _files_of(new, tmp_path, [25])
    candidate = np.ones(len(new), bool)
    candidate[22] = False
    matches = near_earlier(old_files, new_files, candidate, 0.7, tmp_path, memory_bytes)
    expected = [*[-1] * 20, *range(30), -1, 3]
    expected[22] = -1
    assert matches.earlier.tolist() == expected
    assert matches.similarity[51] == 1 and (matches.similarity[:20] == 0).all()
    rows, old = signatures(hash_words(new)), signatures(hash_words(earlier))
    assert matches.similarity[20] == np.float32((rows[20] == old[0]).mean())
    assert near_earlier([], new_files, candidate, 0.7, tmp_path, memory_bytes).earlier.tolist() == [-1] * len(new)


@pytest.fixture(scope="module")
def versioned() -> "pl.Series":
    """About 2,000 real documents, most of them in several versions."""
    if not DATA.is_dir():
        pytest.skip(f"no development data at {DATA}")
    frame = pl.scan_parquet(DATA / "*.parquet").select("source", "text")
    kept = frame.filter(pl.col("source").str.contains("(?i)etcd|react-native|powershell")).collect()
    return kept["text"].head(2000)


@pytest.mark.shared_data
def test_recall_and_precision_on_versions_of_real_pages(tmp_path, versioned) -> None:
    """Against all pairs of true Jaccard similarity >= 0.8, by brute force."""
    from scipy.sparse import csr_array, triu

    texts = versioned.to_list()
    words = hash_words(texts)
    sets, count = shingle_sets(words), len(texts)
    rank = np.random.default_rng(0).permutation(count)
    everyone = np.ones(count, bool)
    distinct = exact_winners(exact_keys(versioned, words), rank, everyone) == np.arange(count)
    clusters = _cluster(texts, tmp_path, rank, distinct)

    _, column = np.unique(np.concatenate(sets), return_inverse=True)
    sizes = np.array([len(own) for own in sets])
    table = csr_array((np.ones(len(column), np.int32), column, np.r_[0, np.cumsum(sizes)]))
    shared = triu(table @ table.T, 1).tocoo()
    true = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    pairs = (true >= 0.8) & distinct[shared.row] & distinct[shared.col]
    left, right = shared.row[pairs], shared.col[pairs]
    assert len(left) > 300
    together = clusters.cluster[left] == clusters.cluster[right]
    both_stay = (clusters.winner[left] == left) & (clusters.winner[right] == right)
    assert together.mean() >= 0.95
    assert both_stay.mean() <= 0.01

    removed = np.flatnonzero(clusters.winner != np.arange(count))
    assert len(removed) > 300
    precise = [jaccard(sets[number], sets[clusters.winner[number]]) >= 0.7 for number in removed.tolist()]
    assert np.mean(precise) >= 0.99
    print(f"{len(left)} pairs: recall {together.mean():.4f}, both kept {both_stay.mean():.4f}; {len(removed)} removed")


@pytest.mark.shared_data
def test_exact_copies_of_the_development_corpus_are_all_found() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no development data at {DATA}")
    texts = pl.read_parquet(DATA / "*.parquet", columns=["text"])["text"]
    keys = exact_keys(texts, hash_words(texts))
    winner = exact_winners(keys, np.arange(len(texts)), np.ones(len(texts), bool))
    byte_copies = len(texts) - texts.n_unique()
    assert byte_copies == 964
    assert 964 <= (winner != np.arange(len(texts))).sum() <= 1063
    first = pl.DataFrame({"text": texts}).with_row_index().select(pl.col("index").min().over("text")).to_series()
    assert np.array_equal(winner, winner[first.to_numpy()])  # equal texts have equal winners
