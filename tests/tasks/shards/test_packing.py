"""Documents to rows and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.shards.packing import SMALLEST_CUT, plan_rows, write_pieces

BOS, PAD = 1000, 1001
TOKENS_PER_ROW = 40

lengths = st.lists(st.integers(0, 130), max_size=40)


@given(lengths, st.sampled_from([0.0, 0.005, 0.99]))
def test_every_document_can_be_recovered_from_the_rows(sizes: list[int], max_padding: float) -> None:
    documents = [np.arange(size) + 1 for size in sizes]
    plan = plan_rows(sizes, TOKENS_PER_ROW, max_padding)
    rows = write_pieces(plan, documents, TOKENS_PER_ROW, BOS, PAD, np.uint16)
    assert rows.shape == (len(plan), TOKENS_PER_ROW + 1)
    pieces: dict[int, list[tuple[int, list[int]]]] = {}
    for row, ids in zip(plan, rows.tolist(), strict=True):
        assert ids[0] == BOS
        starts = [place for place, number in enumerate(ids) if number == BOS]
        content = [number for number in ids if number != PAD]
        assert ids == content + [PAD] * (len(ids) - len(content))
        for piece, start, stop in zip(row, starts, [*starts[1:], len(content)], strict=True):
            pieces.setdefault(piece.document, []).append((piece.start, ids[start + 1 : stop]))
    for number, document in enumerate(documents):
        parts = sorted(pieces.get(number, []))
        assert [token for _, part in parts for token in part] == document.tolist()


@given(lengths)
def test_documents_that_fit_stay_whole_when_padding_is_allowed(sizes: list[int]) -> None:
    plan = plan_rows(sizes, TOKENS_PER_ROW, 0.99)
    counts = np.bincount([piece.document for row in plan for piece in row], minlength=len(sizes))
    assert counts.tolist() == [-(-size // TOKENS_PER_ROW) for size in sizes]


def test_documents_that_fit_badly_are_cut_only_as_far_as_padding_demands() -> None:
    """Documents of 60 % of a row would waste 40 %; cutting some of them must bring padding under the limit."""
    sizes = [300] * 1000
    rows = plan_rows(sizes, 512, 0.005)
    used = sum(piece.tokens for row in rows for piece in row)
    assert 1 - used / (len(rows) * 513) <= 0.005
    whole = sum(piece.tokens == 301 for row in rows for piece in row)
    assert whole > 500
    assert min(piece.tokens for row in rows for piece in row) > 1
    assert all(sum(piece.tokens for piece in row) <= 513 for row in rows)


def test_many_short_documents_need_no_cut() -> None:
    sizes = np.random.default_rng(0).integers(5, 200, 5000).tolist()
    rows = plan_rows(sizes, 512, 0.005)
    assert sum(len(row) for row in rows) == len(sizes)
    assert SMALLEST_CUT > 1
