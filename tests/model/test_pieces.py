"""Which document lies where: read back exactly, refused when it does not fit the rows."""

import numpy as np
import pytest

from model.batches import RowFolder, verify_rows
from model.pieces import Piece, Pieces
from tests.model.piece_files import PIECE, write_pieces

INFO = {"vocab_size": 500, "bos_id": 491, "pad_id": 499, "tokenizer_sha256": "t"}
DOCUMENTS = [("a", list(range(100, 109)), "x"), ("b", [7, 8], "y"), ("c", [5], "x")]
ROWS = [[(0, 0, 6)], [(0, 6, 9), (1, 0, 2)], [(2, 0, 1)], [(1, 0, 2)]]


@pytest.fixture(params=[1, 2, 1000])
def folder(tmp_path, request, monkeypatch):
    monkeypatch.setattr("model.row_files.ROWS_PER_FILE", request.param)
    write_pieces(tmp_path, DOCUMENTS, ROWS, 6, INFO)
    return tmp_path


def test_rows_and_documents_lead_to_each_other(folder):
    pieces = Pieces(folder, "train")
    assert pieces.of_row(1) == [Piece(1, 0, 4, 0, 6), Piece(1, 4, 7, 1, 0)]
    assert pieces.of_document(0) == [Piece(0, 0, 7, 0, 0), Piece(1, 0, 4, 0, 6)]
    assert [piece.row for piece in pieces.of_document(1)] == [1, 3]  # two copies
    assert pieces.of_document(9) == []
    assert sorted(pieces) == sorted(p for number in range(4) for p in pieces.of_row(number))
    source = RowFolder(folder, "train")
    for piece in pieces:
        ids = source.ids(np.array([piece.row]))[0, piece.start : piece.stop].tolist()
        assert ids == [491, *DOCUMENTS[piece.document][1][piece.offset : piece.offset + piece.tokens]]


def test_boundaries_seen_in_the_ids_are_those_of_the_pieces(folder):
    """An attention mask per document needs no pieces file: it would say the same."""
    source, pieces = RowFolder(folder, "train"), Pieces(folder, "train")
    document_ids = source.batch(np.arange(source.rows)).document_ids_BT
    for number in range(source.rows):
        for place, piece in enumerate(pieces.of_row(number), start=1):
            assert set(document_ids[number, piece.start : piece.stop].tolist()) == {place}


def test_ids_are_counted_per_row_and_group(folder):
    counts = Pieces(folder, "train").ids_per_group(np.array([0, 1, 0]), 2)
    assert counts.tolist() == [[7, 0], [4, 3], [2, 0], [0, 3]]


def test_hashes_cover_the_pieces(folder):
    files = len(list(folder.glob("train_*.bin")))
    assert verify_rows(folder) == 2 * files
    path = folder / "train_00000.pieces.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    with pytest.raises(ValueError, match=r"train_00000.pieces.npy: sha256"):
        verify_rows(folder, "train")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (np.zeros(3), "has fields None; needed: row, start"),
        (np.array([(4, 0, 3, 0, 0)], PIECE), "do not lie within"),
        (np.array([(0, 0, 8, 0, 0)], PIECE), "do not lie within"),
        (np.array([(0, 3, 3, 0, 0)], PIECE), "do not lie within"),
        (np.array([(1, 0, 3, 0, 0), (0, 0, 3, 0, 0)], PIECE), "in row order"),
    ],
)
def test_pieces_that_do_not_fit_the_rows_are_refused(tmp_path, entries, message):
    write_pieces(tmp_path, DOCUMENTS, ROWS, 6, INFO)
    np.save(tmp_path / "train_00000.pieces.npy", entries)
    with pytest.raises(ValueError, match=message):
        Pieces(tmp_path, "train")


def test_missing_or_torn_pieces_say_what_to_do(tmp_path):
    write_pieces(tmp_path, DOCUMENTS, ROWS, 6, INFO)
    path = tmp_path / "train_00000.pieces.npy"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="not a readable array"):
        Pieces(tmp_path, "train")
    path.unlink()
    with pytest.raises(ValueError, match="is missing: it says which document lies where; next: build the shards again"):
        Pieces(tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'val'; allowed: train"):
        Pieces(tmp_path, "val")
