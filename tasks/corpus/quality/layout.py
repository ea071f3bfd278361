"""Where the documents, lines and words of a slice of texts lie, found by numpy from one look-up per character."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.quality.characters import Kind, kinds
from tasks.corpus.quality.repetition import RunHashes


class Layout(NamedTuple):
    """Where documents, lines and words lie in the texts joined by line ends; positions are in code points."""

    points: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    starts: NDArray[np.int64]
    """Of documents, and the end of all."""
    word_starts: NDArray[np.int64]
    word_ends: NDArray[np.int64]
    words: NDArray[np.int64]
    """words[d]..words[d + 1] are the words of document d; so are lines and the words of a line below."""
    line_starts: NDArray[np.int64]
    """Of lines that are not blank, as everything about lines here."""
    line_ends: NDArray[np.int64]
    lines: NDArray[np.int64]
    line_words: NDArray[np.int64]
    """First word and the word behind the last one of every line: [lines, 2]."""
    newlines: NDArray[np.int64]
    """Per document."""


def lay_out(texts: Sequence[str]) -> Layout:
    """The layout of texts, in order; an empty text has no words and no lines."""
    joined = "\n".join(texts) + "\n"
    points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    kind = kinds()[points]
    starts = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
    visible = kind > Kind.NEWLINE
    word_starts, word_ends = find_runs(visible)
    line_ends = np.flatnonzero(kind == Kind.NEWLINE)
    line_starts = np.concatenate([[0], line_ends[:-1] + 1])
    newlines = np.diff(np.searchsorted(line_starts, starts)) - 1
    first = np.searchsorted(word_starts, np.append(line_starts, len(points)))
    filled = first[1:] > first[:-1]
    line_words = np.stack([first[:-1][filled], first[1:][filled]], axis=1)
    line_starts, line_ends = line_starts[filled], line_ends[filled]
    words, lines = np.searchsorted(word_starts, starts), np.searchsorted(line_starts, starts)
    return Layout(
        points, kind, starts, word_starts, word_ends, words, line_starts, line_ends, lines, line_words, newlines
    )


def find_runs(chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of maximal runs of True; the last element is False, as the line end behind every text."""
    edges = np.flatnonzero(chosen[1:] != chosen[:-1]) + 1
    if chosen[0]:
        edges = np.concatenate([[0], edges])
    return edges[::2], edges[1::2]


@functools.cache
def hash_words(words: tuple[str, ...]) -> NDArray[np.uint64]:
    """Hashes of single words, as of the same words of any text."""
    at = lay_out(words)
    return RunHashes(at.points)(at.word_starts, at.word_ends)


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Element by element; the share of nothing is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)


def total(values: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Per document, of values per word or line."""
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(sums[starts]).astype(float)
