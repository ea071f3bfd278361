"""Rows as text, and the way from a document to its rows and back to its text."""

import json
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer import Tokenizer, byte_tokenizer_json
from tasks.shards.__main__ import main
from tasks.shards.inspect import describe_row, printable
from tasks.shards.lookup import DocumentPlaces, find_document, restore_ids
from tests.model.piece_files import write_pieces

TOKENIZER = Tokenizer.from_json(byte_tokenizer_json())
PAD = TOKENIZER.special_id("<|output_end|>")
INFO = {
    "vocab_size": TOKENIZER.vocab_size,
    "bos_id": TOKENIZER.bos_id,
    "pad_id": PAD,
    "tokenizer_sha256": TOKENIZER.sha256,
}
TEXTS = {"docs:a": "Grüße aus dem langen Text", "docs:b": "short", "docs:c": "bell \a and \x1b[31mred"}


@pytest.fixture
def shards(tmp_path):
    """docs:a is cut in two; docs:b lies in the rows twice; rows are in two files."""
    folder = tmp_path / "artifacts" / "shards"
    (tmp_path / "artifacts" / "tokenizer").mkdir(parents=True)
    (tmp_path / "artifacts" / "tokenizer" / "tokenizer.json").write_text(byte_tokenizer_json())
    documents = [(name, TOKENIZER.encode(text), "prose") for name, text in TEXTS.items()]
    length = len(documents[0][1])
    rows = [[(0, 0, 20)], [(0, 20, length), (1, 0, 5)], [(2, 0, 19)], [(1, 0, 5)]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.row_files.ROWS_PER_FILE", 2)
        write_pieces(folder, documents, rows, 20, INFO)
    return folder


def show(capsys, *arguments):
    assert main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main(["inspect", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_a_row_shows_its_documents_with_id_and_place(shards, capsys):
    shown = show(capsys, shards, "--row", 1)
    assert shown.startswith("===== train row 1 of 4\n--- position 0: 8 tokens of docs:a, from its token 20\n")
    assert "--- position 8: 6 tokens of docs:b, from its token 0\nshort\n--- padding: 7 tokens" in shown
    assert "\x1b" not in shown  # captured output is no terminal
    assert show(capsys, shards).count("=====") == 3


def test_colours_are_for_terminals_and_tell_neighbours_apart(shards, capsys, monkeypatch):
    coloured = show(capsys, shards, "--row", 1, "--color", "always")
    assert "\x1b[36m" in coloured and "\x1b[33mshort\x1b[0m" in coloured
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b[33m" in show(capsys, shards, "--row", 1)
    assert "\x1b" not in show(capsys, shards, "--row", 1, "--color", "never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in show(capsys, shards, "--row", 1)


def test_a_document_cannot_drive_the_terminal(shards, capsys):
    shown = show(capsys, shards, "--row", 2)
    assert "bell \\x07 and \\x1b[31mred" in shown
    assert printable("a\tb\nc\r\x9b") == "a\tb\nc\\x0d\\x9b"


def test_one_file_is_shown_with_row_numbers_of_its_own(shards, capsys):
    assert show(capsys, shards / "train_00001.bin", "--row", 0).startswith("===== train row 2 of 4\n")
    assert "allowed: 0..1" in refused(capsys, shards / "train_00001.bin", "--row", 2)
    assert "is not in" in refused(capsys, shards / "other.bin")


def test_a_document_leads_to_its_rows(shards, capsys):
    length = len(TOKENIZER.encode(TEXTS["docs:a"]))
    shown = show(capsys, shards, "--document", "docs:a").splitlines()
    assert shown[0] == f"docs:a: {length} tokens in split train, domain prose"
    assert [line.split() for line in shown[1:]] == [
        ["train", "row", "0", "positions", "0..20", "tokens", "0..19"],
        ["train", "row", "1", "positions", "0..7", "tokens", f"20..{length - 1}"],
    ]
    assert [line.split()[2] for line in show(capsys, shards, "--document", "docs:b").splitlines()[1:]] == ["1", "3"]


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_documents_text_is_exact_in_a_pipe_and_harmless_on_a_terminal(shards, capsys, monkeypatch, name):
    assert show(capsys, shards, "--document", name, "--text") == TEXTS[name]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert show(capsys, shards, "--document", name, "--text") == printable(TEXTS[name]) + "\n"


def test_an_unknown_document_names_its_neighbours(shards, capsys):
    message = refused(capsys, shards, "--document", "docs:aa")
    assert "no document 'docs:aa'; the next ids there are 'docs:b', 'docs:c'; next: look the id up" in message
    assert "every id there is smaller" in refused(capsys, shards, "--document", "zebra")


def test_rows_that_lost_a_piece_do_not_pass_for_the_document(shards):
    found = find_document(shards, "docs:a")
    short = DocumentPlaces(found.id, found.split, found.tokens, 1, None, found.pieces[:1])
    with pytest.raises(ValueError, match=r"hold 20 of 27 tokens of 'docs:a'"):
        restore_ids(shards, short)


def test_shards_of_earlier_versions_are_shown_without_names(shards, capsys):
    """They have no pieces; only finding a document needs them."""
    for path in shards.glob("*.npy"):
        path.unlink()
    assert "--- position 8: 6 tokens\nshort" in show(capsys, shards, "--row", 1)
    assert "train_00000.pieces.npy is missing" in refused(capsys, shards, "--document", "docs:a")
    pl.read_parquet(shards / "documents.parquet").drop("repeats", "domain").write_parquet(shards / "documents.parquet")
    (shards / "documents.parquet").unlink()
    assert "documents.parquet is missing" in refused(capsys, shards, "--document", "docs:a")


def test_a_check_of_all_hashes_names_the_file_that_differs(shards, capsys):
    assert show(capsys, shards, "--verify").startswith("4 files are as ")
    path = shards / "train_00001.bin"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    assert "train_00001.bin: sha256 is" in refused(capsys, shards, "--verify")


def test_bad_input_is_named(shards, capsys):
    assert "has no split 'val'; allowed: train" in refused(capsys, shards, "--split", "val")
    assert "no row -1" in refused(capsys, shards, "--row", -1)
    assert "not a readable manifest" in refused(capsys, shards.parent)
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"tokenizer_sha256": "other"}))
    assert "next: name that one with --tokenizer" in refused(capsys, shards)
    assert main([]) == main(["count"]) == 2
    assert "unknown command 'count'; allowed: inspect" in capsys.readouterr().err


def test_it_runs_as_a_command(shards):
    done = subprocess.run(
        [sys.executable, "-m", "tasks.shards", "inspect", str(shards), "--row", "3"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "short" in done.stdout and "\x1b" not in done.stdout


def test_a_row_without_bos_is_shown_as_it_is():
    """A damaged row must not crash the tool one looks at it with."""
    assert describe_row(TOKENIZER, [*b"abc", PAD], PAD) == "--- position 0: 3 tokens\nabc\n--- padding: 1 tokens"
    assert describe_row(TOKENIZER, [PAD, PAD], PAD).endswith("--- padding: 2 tokens")


@settings(max_examples=30, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_every_document_comes_back_however_it_and_its_copies_were_cut(data, lengths, tmp_path_factory):
    """Round trip over random cuts: rows + pieces hold every document, in any order of rows."""
    folder = tmp_path_factory.mktemp("shards")
    documents = [(f"d{n}", [(7 * n + i) % 256 for i in range(length)], "x") for n, length in enumerate(lengths)]
    pieces = []
    for number, length in enumerate(lengths):
        for _ in range(data.draw(st.integers(1, 2))):
            start = 0
            while start < length:
                stop = min(length, start + data.draw(st.integers(1, 15)))
                pieces.append((number, start, stop))
                start = stop
    rows = [[piece] for piece in data.draw(st.permutations(pieces))]
    write_pieces(folder, documents, rows, 15, INFO)
    for name, ids, _ in documents:
        assert restore_ids(folder, find_document(folder, name)).tolist() == ids
