"""Show packed rows as text with the borders of documents, or find the rows of a document.

    python -m tasks.shards inspect artifacts/shards [--split val] [--row 7]
    python -m tasks.shards inspect artifacts/shards/train_00000.bin --row 7
    python -m tasks.shards inspect artifacts/shards --document <id> [--text]
    python -m tasks.shards inspect artifacts/shards --verify

Neighbouring documents have different colours on a terminal; a pipe gets none. Control characters are shown as escapes,
so that no document can drive the terminal; only --text into a pipe or file gives the document's exact bytes.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.pieces import Piece, Pieces
from model.row_files import StoredRows, pieces_name, read_manifest, split_section, verify_rows
from model.tokenizer import Tokenizer
from tasks.shards.lookup import document_ids, find_document, restore_ids

FIRST_ROWS = 3
"""Rows shown when none is asked for."""
_DIM, _RESET, _COLOURS = "\x1b[2m", "\x1b[0m", ("\x1b[36m", "\x1b[33m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Target:
    """A split of a folder, or one file of it: rows [first, first + count) of the split."""

    folder: Path
    split: str
    first: int
    count: int


def main(arguments: list[str] | None = None) -> int:
    """Print rows, a document's places or the result of a check of all hashes; 2 after an error."""
    options = _parser().parse_args(arguments)
    coloured = options.color == "always" or (
        options.color == "auto" and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    )
    try:
        answer = _answer(options, coloured)
        if isinstance(answer, bytes) and not sys.stdout.isatty():
            sys.stdout.buffer.write(answer)
        else:
            print(printable(answer.decode("utf-8", "replace")) if isinstance(answer, bytes) else answer)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()  # `| head` is no error; Python would report it on exit
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.shards inspect", description="Show packed rows as text, or find a document's rows."
    )
    parser.add_argument("shards", type=Path, help="a folder with manifest.json, or one of its .bin files")
    parser.add_argument("--split", default="train", help="train or val (default: train)")
    parser.add_argument("--row", type=int, help=f"row number; without it the first {FIRST_ROWS}")
    parser.add_argument("--document", metavar="ID", help="list the rows that hold this document")
    parser.add_argument("--text", action="store_true", help="with --document: its text, restored from the rows")
    parser.add_argument("--verify", action="store_true", help="compare every file with its hash in the manifest")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json (default: ../tokenizer/ beside the folder)")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    return parser


def _answer(options: argparse.Namespace, coloured: bool) -> str | bytes:
    """What was asked for; bytes for the text of a document."""
    target = find_target(options.shards, options.split)
    if options.verify:
        return f"{verify_rows(target.folder)} files are as {target.folder}/manifest.json says"
    if options.document is not None and not options.text:
        return places_as_text(target.folder, options.document)
    path = options.tokenizer or target.folder.resolve().parent / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.sha256 != read_manifest(target.folder).get("tokenizer_sha256"):
        raise ValueError(
            f"{target.folder} was written with another tokenizer than {path}; next: name that one with --tokenizer"
        )
    if options.document is not None:
        ids = restore_ids(target.folder, find_document(target.folder, options.document))
        return tokenizer.decode_bytes(ids.tolist())
    return rows_as_text(target, options.row, tokenizer, coloured)


def find_target(path: Path, split: str) -> Target:
    """What `path` stands for: a folder with its split, or a file, whose name says the split."""
    folder = path.parent if path.suffix == ".bin" else path
    manifest = read_manifest(folder)
    if path.suffix != ".bin":
        return Target(folder, split, 0, int(split_section(folder, manifest, split)["rows"]))
    for name, section in manifest.items():
        first = 0
        for entry in section.get("files", []) if isinstance(section, dict) else []:
            if entry["name"] == path.name:
                return Target(folder, name, first, int(entry["rows"]))
            first += int(entry["rows"])
    raise ValueError(f"{path} is not in {folder}/manifest.json; next: name a file it lists, or the folder")


def rows_as_text(target: Target, row: int | None, tokenizer: Tokenizer, coloured: bool = False) -> str:
    """One row of the target, or its first ones, each under a heading."""
    if row is not None and not 0 <= row < target.count:
        raise ValueError(f"split {target.split!r} has no row {row} here; allowed: 0..{target.count - 1}")
    rows = StoredRows(target.folder, target.split)
    pieces, names = _pieces_of(target), document_ids(target.folder)
    blocks = []
    for number in range(min(FIRST_ROWS, target.count)) if row is None else [row]:
        in_split = target.first + number
        ids = rows.ids(np.array([in_split]))[0].tolist()
        own = pieces.of_row(in_split) if pieces else []
        text = describe_row(tokenizer, ids, rows.pad_id, coloured, _labels(own, names))
        blocks.append(f"===== {target.split} row {in_split} of {rows.rows}\n{text}")
    return "\n".join(blocks)


def _pieces_of(target: Target) -> Pieces | None:
    """None for rows without such files: conversations, and shards of earlier versions."""
    files = split_section(target.folder, read_manifest(target.folder), target.split)["files"]
    there = files and (target.folder / pieces_name(files[0]["name"])).exists()
    return Pieces(target.folder, target.split) if there else None


def _labels(pieces: list[Piece], names: list[str]) -> dict[int, str]:
    """What is said of the piece that starts at each position."""
    return {p.start: f" of {names[p.document]}, from its token {p.offset}" for p in pieces if p.document < len(names)}


def describe_row(
    tokenizer: Tokenizer, ids: list[int], pad_id: int, coloured: bool = False, labels: dict[int, str] | None = None
) -> str:
    """A row as readable text: one block per document or piece of one, padding counted at the end."""

    def paint(text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if coloured else text

    lines: list[str] = []
    end = next((place for place, number in enumerate(ids) if number == pad_id), len(ids))
    starts = [place for place, number in enumerate(ids[:end]) if number == tokenizer.bos_id]
    if starts[:1] != [0]:  # no promise of the reader: show what is there
        starts.insert(0, 0)
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], end], strict=True)):
        label = printable((labels or {}).get(start, ""))
        lines.append(paint(f"--- position {start}: {stop - start} tokens{label}", _DIM))
        first = start + (ids[start] == tokenizer.bos_id)
        lines.append(paint(printable(tokenizer.decode(ids[first:stop])), _COLOURS[number % len(_COLOURS)]))
    lines.append(paint(f"--- padding: {len(ids) - end} tokens", _DIM))
    return "\n".join(lines)


def places_as_text(folder: Path, document_id: str) -> str:
    """The rows that hold a document, one line for each of its pieces."""
    found = find_document(folder, document_id)
    domain = f", domain {found.domain}" if found.domain else ""
    copies = f", {found.copies} copies" if found.copies > 1 else ""
    lines = [f"{printable(found.id)}: {found.tokens:,} tokens in split {found.split}{domain}{copies}"]
    lines += [
        f"  {found.split} row {piece.row:>8}  positions {piece.start:>6}..{piece.stop - 1:<6} "
        f"tokens {piece.offset}..{piece.offset + piece.tokens - 1}"
        for piece in found.pieces
    ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` with control characters other than line feed and tab as escapes."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


if __name__ == "__main__":
    sys.exit(main())
