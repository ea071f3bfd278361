"""Statistics of every text, measured once; thresholds (rules.py) come later and never need the text again.

A word is a maximal run of characters without white space (`\\S+`); only duplicate_shingle_fraction takes the words of
deduplication. A line ends at U+000A; lines of white space only are blank and count nowhere. A paragraph is a run of
lines that are not blank. A share of nothing is 0.

polars does what searches text for fixed phrases, in one lazy query. Everything that needs words, lines or n-grams is
numpy over slices of the decoded text (one table look-up per character, then sums over runs), because regular
expressions that list or count words take most of the time of such a query, and n-grams are out of their reach.
A document's statistics depend on its text alone. Memory: about 60 bytes per character of one slice.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.quality.characters import (
    LETTERS,
    SENTENCE_CLOSERS,
    SENTENCE_ENDS,
    SYMBOLS,
    WORD_KINDS,
    Kind,
    is_in,
    lower_case,
)
from tasks.corpus.quality.layout import Layout, find_runs, hash_words, lay_out, share, total
from tasks.corpus.quality.lines import count_lines, find_duplicate_blocks
from tasks.corpus.quality.repetition import (
    DUPLICATE_NGRAMS,
    SHINGLE_WORDS,
    TOP_NGRAMS,
    RunHashes,
    count_duplicate_shingles,
    count_repetition,
)

if TYPE_CHECKING:
    import polars as pl

SLICE_BYTES = 1 << 20
"""Text measured at a time; one longer document is a slice of its own."""
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
"""Gopher's English words, matched exactly: `The` and `the,` are others, but no English text lives on those alone."""
JAVASCRIPT = "javascript"
POLICY_PHRASES = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip
LOREM_IPSUM = "lorem ipsum"

_SCRIPTS = {
    "latin_fraction": Kind.LATIN,
    "cyrillic_fraction": Kind.CYRILLIC,
    "cjk_fraction": Kind.CJK,
    "arabic_fraction": Kind.ARABIC,
    "other_script_fraction": Kind.OTHER_LETTER,
}
_PHRASES = ("lorem_ipsums", "javascript_lines", "policy_lines", "ellipses")
STATISTICS: tuple[str, ...] = (
    "characters", "words", "mean_word_characters", "alphabetic_word_fraction", "symbol_fraction", "digit_fraction",
    "duplicate_line_fraction", "duplicate_shingle_fraction",
    "nonsymbol_words", "mean_nonsymbol_word_characters", "hashes_per_word", "ellipses_per_word",
    "bullet_line_fraction", "ellipsis_line_fraction", "stop_words",
    "duplicate_line_character_fraction", "duplicate_paragraph_fraction", "duplicate_paragraph_character_fraction",
    *(f"top_{n}gram_character_fraction" for n in TOP_NGRAMS),
    *(f"duplicate_{n}gram_character_fraction" for n in DUPLICATE_NGRAMS),
    "sentences", "curly_brackets", "lorem_ipsums", "javascript_line_fraction", "policy_line_fraction",
    "unterminated_line_fraction", "few_word_line_fraction", "longest_word_characters",
    "terminal_line_fraction", "short_line_fraction", "newlines_per_word",
    "code_line_fraction", *_SCRIPTS,
)  # fmt: skip
"""The columns, all Float32. Each is defined where it is computed, below; what it is for, in rules.py."""


def add_statistics(documents: "pl.DataFrame") -> "pl.DataFrame":
    """`documents` with all STATISTICS of their column `text`; a null text counts as empty."""
    import polars as pl

    text = documents["text"].fill_null("")
    phrases = _count_phrases(text)
    slices = np.cumsum(text.str.len_bytes().to_numpy().astype(np.int64)) // SLICE_BYTES
    starts = np.flatnonzero(np.diff(slices, prepend=-1)).tolist()
    parts = [
        _measure(text[start:stop].to_list(), {name: column[start:stop] for name, column in phrases.items()})
        for start, stop in itertools.pairwise([*starts, len(text)])
    ]
    columns = {name: np.concatenate([np.zeros(0), *(part[name] for part in parts)]) for name in STATISTICS}
    return documents.with_columns(pl.Series(name, values.astype(np.float32)) for name, values in columns.items())


def _count_phrases(text: "pl.Series") -> dict[str, NDArray[np.int64]]:
    """_PHRASES per text: occurrences, or lines that hold one; without regard to case."""
    import polars as pl

    column = pl.col("text")
    phrases = [LOREM_IPSUM, JAVASCRIPT, *POLICY_PHRASES]
    # A fast search for all phrases at once leaves few texts to the slower, exact counts.
    some = column.str.contains_any(phrases, ascii_case_insensitive=True)
    lower = pl.when(some).then(column).str.to_lowercase()
    policy = "|".join(POLICY_PHRASES)
    to_line_end = r"[^\n]*"  # so that a line matches once, from its first phrase on
    counts = pl.LazyFrame({"text": text}).select(
        lower.str.count_matches(LOREM_IPSUM, literal=True).alias("lorem_ipsums"),
        lower.str.count_matches(f"{JAVASCRIPT}{to_line_end}").alias("javascript_lines"),
        lower.str.count_matches(f"(?:{policy}){to_line_end}").alias("policy_lines"),
        (column.str.count_matches("...", literal=True) + column.str.count_matches("…", literal=True)).alias("ellipses"),
    )
    frame = counts.collect().fill_null(0).cast(pl.Int64)
    return {name: frame[name].to_numpy() for name in _PHRASES}


def _measure(texts: Sequence[str], phrases: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """All STATISTICS of one slice."""
    at = lay_out(texts)
    exact = RunHashes(at.points)
    hashes = exact(at.word_starts, at.word_ends)
    lines = np.diff(at.lines)
    result = _count_characters(at)
    result |= _count_words(at, hashes)
    result |= count_lines(at, hashes)
    words, characters = result["words"], result["characters"]
    result["hashes_per_word"] = share(result.pop("hashes"), words)
    result["ellipses_per_word"] = share(phrases["ellipses"], words)
    result["newlines_per_word"] = share(at.newlines, words)
    result["mean_word_characters"] = share(result.pop("visible"), words)
    result["lorem_ipsums"] = phrases["lorem_ipsums"].astype(float)
    result["javascript_line_fraction"] = share(phrases["javascript_lines"], lines)
    result["policy_line_fraction"] = share(phrases["policy_lines"], lines)
    result |= find_duplicate_blocks(at, exact, characters)
    del exact
    result["duplicate_shingle_fraction"] = _find_duplicate_shingles(at)
    repetition = count_repetition(hashes, at.word_ends - at.word_starts, at.words)
    for n, counts in repetition.top_characters.items():
        result[f"top_{n}gram_character_fraction"] = share(counts, characters)
    for n, counts in repetition.duplicate_characters.items():
        result[f"duplicate_{n}gram_character_fraction"] = share(counts, characters)
    return result


def _find_duplicate_shingles(at: Layout) -> NDArray[np.float64]:
    """Share of shingles that repeat, over the words of deduplication: lower-case runs of letters, marks, numbers, _."""
    starts, ends = find_runs(is_in(WORD_KINDS)[at.kind] | (at.points == ord("_")))
    words = np.searchsorted(starts, at.starts)
    hashes = RunHashes(lower_case()[at.points])(starts, ends)
    return share(count_duplicate_shingles(hashes, words), np.diff(words) - (SHINGLE_WORDS - 1))


def _count_characters(at: Layout) -> dict[str, NDArray[np.float64]]:
    """What needs no more than the number of characters of each kind."""
    documents, width = len(at.starts) - 1, 32
    cells = np.repeat(np.arange(0, documents * width, width), np.diff(at.starts))
    cells += at.kind
    counts = np.bincount(cells, minlength=documents * width).reshape(documents, width)
    counts[:, Kind.NEWLINE] -= 1  # the one that joins texts
    characters = counts.sum(axis=1)
    visible = characters - counts[:, Kind.SPACE] - counts[:, Kind.NEWLINE]
    letters = counts[:, LETTERS].sum(axis=1)
    return {
        "characters": characters.astype(float),
        "visible": visible.astype(float),
        "symbol_fraction": share(counts[:, SYMBOLS].sum(axis=1), visible),
        "digit_fraction": share(counts[:, Kind.DIGIT], visible),
        "hashes": counts[:, Kind.HASH].astype(float),
        "curly_brackets": counts[:, Kind.OPENING_BRACE].astype(float),
        **{name: share(counts[:, script], letters) for name, script in _SCRIPTS.items()},
    }


def _count_words(at: Layout, hashes: NDArray[np.uint64]) -> dict[str, NDArray[np.float64]]:
    has = np.where(is_in(LETTERS), 1, 0) | np.where(is_in(WORD_KINDS), 2, 0)
    flags = np.bitwise_or.reduceat(has.astype(np.uint8)[at.kind], at.word_starts)  # 1: a letter, 2: not only symbols
    lengths = at.word_ends - at.word_starts
    nonsymbol = flags > 1
    nonsymbol_words = total(nonsymbol, at.words)
    last, before = at.kind[at.word_ends - 1], at.kind[np.maximum(at.word_ends - 2, 0)]
    ends, closes = is_in(SENTENCE_ENDS), is_in(SENTENCE_CLOSERS)
    sentence = ends[last] | (closes[last] & (lengths > 1) & ends[before])
    words = np.diff(at.words).astype(float)
    longest = np.zeros(len(words))
    some = words > 0
    longest[some] = np.maximum.reduceat(lengths, at.words[:-1][some]) if some.any() else 0
    # Of a sorted list of positions, those of a document lie between the places of its first and last word.
    found = [np.diff(np.searchsorted(np.flatnonzero(hashes == word), at.words)) > 0 for word in hash_words(STOP_WORDS)]
    return {
        "words": words,
        "alphabetic_word_fraction": share(total(flags & 1, at.words), words),
        "nonsymbol_words": nonsymbol_words,
        "mean_nonsymbol_word_characters": share(total(lengths * nonsymbol, at.words), nonsymbol_words),
        "stop_words": np.sum(found, axis=0, dtype=float),
        "longest_word_characters": longest,
        # A word that ends in a stop, perhaps behind it a quote or bracket; or a wide stop with text right behind it.
        "sentences": total(sentence, at.words) + _inner_stops(at),
    }


def _inner_stops(at: Layout) -> NDArray[np.float64]:
    stops = np.flatnonzero(at.kind == Kind.WIDE_STOP)
    behind = at.kind[stops + 1]
    goes_on = (behind > Kind.NEWLINE) & ~is_in((*SENTENCE_ENDS, *SENTENCE_CLOSERS))[behind]
    return np.diff(np.searchsorted(stops[goes_on], at.starts)).astype(float)
