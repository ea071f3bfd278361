"""Domain shares over packed rows: reached on average, exact where rows allow it, refused where they do not."""

import numpy as np
import pytest

from model.batches import RowBatches
from model.row_mixture import draw_rows, solve_visits
from tests.model.piece_files import write_pieces

INFO = {"vocab_size": 500, "bos_id": 491, "pad_id": 499, "tokenizer_sha256": "t"}


def mixed_counts(rows=200, seed=0):
    """Rows of three domains: some of one, most of several."""
    draw = np.random.default_rng(seed)
    shares = draw.dirichlet([0.4, 0.3, 0.2], rows)
    return np.round(shares * 512).astype(np.int64)


def test_rows_of_one_domain_each_get_the_plain_ratio():
    """Reference: with pure rows the answer is share asked for / share there."""
    counts = np.array([[10, 0]] * 6 + [[0, 10]] * 2)
    visits = solve_visits(counts, np.array([0.5, 0.5]), ["x", "y"])
    np.testing.assert_allclose(visits, [8 * 0.5 / 6] * 6 + [8 * 0.5 / 2] * 2, rtol=1e-5)


@pytest.mark.parametrize("target", [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]])
def test_mixed_rows_reach_the_shares_asked_for(target):
    counts = mixed_counts()
    visits = solve_visits(counts, np.array(target), ["x", "y", "z"])
    assert visits.sum() == pytest.approx(len(counts))
    assert (visits > 0).all()
    reached = visits @ counts
    np.testing.assert_allclose(reached / reached.sum(), target, atol=2e-6)


def test_the_shares_that_are_there_change_nothing():
    counts = mixed_counts()
    visits = solve_visits(counts, counts.sum(0) / counts.sum(), ["x", "y", "z"])
    np.testing.assert_allclose(visits, 1.0, atol=1e-9)


def test_shares_that_no_frequencies_reach_are_refused():
    counts = np.array([[5, 5], [5, 5], [8, 2]])
    with pytest.raises(ValueError, match=r"cannot give the domain shares \{'x': 0.1, 'y': 0.9\}; nearest: about"):
        solve_visits(counts, np.array([0.1, 0.9]), ["x", "y"])


def test_an_epoch_takes_each_row_its_number_of_times_rounded_either_way():
    """Invariant: as many draws as rows; the mean over epochs is the expectation."""
    visits = solve_visits(mixed_counts(60), np.array([0.2, 0.2, 0.6]), ["x", "y", "z"])
    totals = np.zeros(60)
    for epoch in range(300):
        taken = np.bincount(draw_rows(visits, np.random.Generator(np.random.Philox([0, epoch]))), minlength=60)
        assert taken.sum() == 60
        assert ((taken == np.floor(visits)) | (taken == np.ceil(visits))).all()
        totals += taken
    # 300 epochs of a rounding that is off by less than one: standard error below 0.5 / sqrt(300) = 0.03.
    np.testing.assert_allclose(totals / 300, visits, atol=0.12)


@pytest.fixture
def folder(tmp_path):
    """Twelve rows: eight of domain x alone, two mixed, two of y alone."""
    documents = [(f"d{n:02d}", [100 + n] * 5, "x" if n < 8 else "y") for n in range(12)]
    documents += [("e0", [1, 1], "x"), ("e1", [2], "y"), ("e2", [3, 3], "x"), ("e3", [4], "y")]
    rows = [[(n, 0, 5)] for n in range(8)] + [[(12, 0, 2), (13, 0, 1)], [(14, 0, 2), (15, 0, 1)]]
    write_pieces(tmp_path, documents, [*rows, [(8, 0, 5)], [(9, 0, 5)]], 5, INFO)
    return tmp_path


def test_the_loader_takes_domains_as_asked_and_resumes_in_the_same_order(folder):
    batches = RowBatches(folder, "train", 6, seed=3, domain_shares={"x": 1, "y": 1})
    stream = [batches.next() for _ in range(200)]
    ids = np.concatenate([batch.ids_BT.numpy() for batch in stream])
    assert 1 < batches.most_visits_per_epoch < 5
    of_y = np.isin(ids, [108, 109, 2, 4]).sum()
    of_x = np.isin(ids, [*range(100, 108), 1, 3]).sum()
    assert of_y / (of_x + of_y) == pytest.approx(0.5, abs=0.03)
    state = batches.state_dict() | {"rows_taken": 54}
    ranks = [RowBatches(folder, "train", 3, 3, rank, 2, domain_shares={"y": 1, "x": 1}) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    again = np.concatenate([rank.next().ids_BT.numpy() for rank in ranks])
    assert (again == stream[9].ids_BT.numpy()).all()


def test_a_position_under_other_shares_is_refused(folder):
    state = RowBatches(folder, "train", 2, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"domain_shares=None, these rows have domain_shares=\{'x': 1, 'y': 2\}"):
        RowBatches(folder, "train", 2, seed=0, domain_shares={"x": 1, "y": 2}).load_state_dict(state)


@pytest.mark.parametrize("shares", [{"x": 1}, {"x": 1, "y": 1, "z": 1}, {"x": 1, "y": 0}, {"x": 1, "y": -1}])
def test_shares_must_name_the_domains_there_are(folder, shares):
    with pytest.raises(ValueError, match="allowed: a positive number for each of x, y"):
        RowBatches(folder, "train", 2, seed=0, domain_shares=shares)


def test_rows_without_pieces_cannot_be_weighted(folder):
    (folder / "train_00000.pieces.npy").unlink()
    with pytest.raises(ValueError, match="next: build the shards again"):
        RowBatches(folder, "train", 2, seed=0, domain_shares={"x": 1, "y": 1})
