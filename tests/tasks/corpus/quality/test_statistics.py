"""Every statistic against a slow count in plain Python; repetition has its own file."""

import itertools
import re
import unicodedata

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus.quality import statistics
from tasks.corpus.quality.characters import WHITE_SPACE, Kind, kinds
from tasks.corpus.quality.lines import CODE_WORDS
from tasks.corpus.quality.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS
from tasks.corpus.quality.statistics import POLICY_PHRASES, STATISTICS, STOP_WORDS, add_statistics
from tests.tasks.corpus.quality.test_repetition import reference_repetition

SPACES = WHITE_SPACE + "\n"
PROSE = set(".,;:!?'\"()-_`")
ENDS = set(".!?…。！？．｡।॥۔؟։።⁇⁈⁉‼")
WIDE = ENDS - set(".!?…")
CLOSERS = set("'\"’”»›」』()")
TERMINAL = ENDS | set("'\"’”»›」』")


def _words(text: str) -> list[str]:
    return [word for word in re.split(f"[{re.escape(SPACES)}]+", text) if word]


def _is(word: str, classes: str) -> bool:
    return any(unicodedata.category(character)[0] in classes for character in word)


def _duplicates(items: list[str]) -> tuple[int, int]:
    repeats = [item for number, item in enumerate(items) if item in items[:number]]
    return len(repeats), sum(map(len, repeats))


def _paragraphs(text: str) -> list[str]:
    found: list[list[str]] = [[]]
    for line in text.split("\n"):
        if _words(line):
            found[-1].append(line)
        else:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def _sentences(text: str) -> int:
    count = 0
    for word in _words(text):
        stem = word[:-1] if word[-1] in CLOSERS and len(word) > 1 else word
        count += stem[-1] in ENDS
        count += sum(a in WIDE and b not in ENDS | CLOSERS for a, b in itertools.pairwise(word))
    return count


def _shingles(text: str) -> list[tuple[str, ...]]:
    """Runs of five words as deduplication sees them; lower case where that is a single character."""
    lower = [c.lower() if len(c.lower()) == 1 else c for c in text]
    words = "".join(c if c == "_" or _is(c, "LMN") else " " for c in lower).split(" ")
    words = [word for word in words if word]
    return [tuple(words[i : i + 5]) for i in range(len(words) - 4)]


def reference(text: str) -> dict[str, float]:
    """All statistics of one text, the slow way."""
    words, lines = _words(text), [line for line in text.split("\n") if _words(line)]
    visible = [c for c in text if c not in SPACES]
    nonsymbol = [word for word in words if _is(word, "LMN")]
    letters = [c for c in text if _is(c, "L")]
    edges = [(_words(line)[0], _words(line)[-1]) for line in lines]
    ellipsis = [last.endswith(("...", "…")) for _, last in edges]
    terminal = [last[-1] in TERMINAL for _, last in edges]

    def per(count: float, whole: int) -> float:
        return count / whole if whole else 0.0

    duplicate_lines, duplicate_paragraphs = _duplicates(lines), _duplicates(_paragraphs(text))
    found: dict[str, float] = {
        "characters": len(text),
        "words": len(words),
        "mean_word_characters": per(len(visible), len(words)),
        "alphabetic_word_fraction": per(sum(_is(word, "L") for word in words), len(words)),
        "symbol_fraction": per(sum(not _is(c, "LMN") and c not in PROSE for c in visible), len(visible)),
        "digit_fraction": per(sum(unicodedata.category(c) == "Nd" for c in text), len(visible)),
        "duplicate_line_fraction": per(duplicate_lines[0], len(lines)),
        "nonsymbol_words": len(nonsymbol),
        "mean_nonsymbol_word_characters": per(sum(map(len, nonsymbol)), len(nonsymbol)),
        "hashes_per_word": per(text.count("#"), len(words)),
        "ellipses_per_word": per(text.count("...") + text.count("…"), len(words)),
        "bullet_line_fraction": per(sum(first[0] in "•-" for first, _ in edges), len(lines)),
        "ellipsis_line_fraction": per(sum(ellipsis), len(lines)),
        "stop_words": len(set(words) & set(STOP_WORDS)),
        "duplicate_line_character_fraction": per(duplicate_lines[1], len(text)),
        "duplicate_paragraph_fraction": per(duplicate_paragraphs[0], len(_paragraphs(text))),
        "duplicate_paragraph_character_fraction": per(duplicate_paragraphs[1], len(text)),
        "sentences": _sentences(text),
        "curly_brackets": text.count("{"),
        "lorem_ipsums": text.lower().count("lorem ipsum"),
        "javascript_line_fraction": per(sum("javascript" in line.lower() for line in lines), len(lines)),
        "policy_line_fraction": per(sum(any(p in line.lower() for p in POLICY_PHRASES) for line in lines), len(lines)),
        "terminal_line_fraction": per(sum(terminal), len(lines)),
        "unterminated_line_fraction": per(sum(e or not t for e, t in zip(ellipsis, terminal, strict=True)), len(lines)),
        "few_word_line_fraction": per(sum(len(_words(line)) < 3 for line in lines), len(lines)),
        "longest_word_characters": max(map(len, words), default=0),
        "short_line_fraction": per(sum(len(line) <= 30 for line in lines), len(lines)),
        "newlines_per_word": per(text.count("\n"), len(words)),
        "code_line_fraction": per(sum(a in CODE_WORDS or b[-1] in ";{}" for a, b in edges), len(lines)),
    }
    for name, script in {"latin": "LATIN", "cyrillic": "CYRILLIC", "cjk": "CJK", "arabic": "ARABIC"}.items():
        found[f"{name}_fraction"] = per(sum(unicodedata.name(c, "").startswith(script) for c in letters), len(letters))
    named = sum(found[f"{name}_fraction"] for name in ("latin", "cyrillic", "cjk", "arabic"))
    found["other_script_fraction"] = 1 - named if letters else 0.0
    top, duplicated = reference_repetition(words)
    shingles = _shingles(text)
    found["duplicate_shingle_fraction"] = per(len(shingles) - len(set(shingles)), len(shingles))
    found |= {f"top_{n}gram_character_fraction": per(top[n], len(text)) for n in TOP_NGRAMS}
    found |= {f"duplicate_{n}gram_character_fraction": per(duplicated[n], len(text)) for n in DUPLICATE_NGRAMS}
    return found


def _measure(texts: list[str]) -> list[dict[str, float]]:
    frame = add_statistics(
        pl.DataFrame({"text": texts, "domain": ["d"] * len(texts)}, schema_overrides={"text": pl.String})
    )
    assert frame.height == len(texts)
    assert all(frame[name].dtype == pl.Float32 for name in STATISTICS)
    return frame.select(STATISTICS).rows(named=True)


PIECES = [
    *"aZ1.;#{}-•…'\"”)。।٣éжЖ中ツعश", " ", " ", " ", "\n", "\n", "\n\n", "\t", "\r\n", "\u3000", "\xa0", "\x1c",
    "\u0301", "...", "the ", "The ", "of ", "to", "be ", "A b. ", "end!\n", "return x;\n", "def f\n", "JavaScript ",
    "lorem Ipsum", " terms of use ", "Use Cookies\n", "word word word ", "one two three four five six ", "(Done.)",
    "²", "½", "𝒳", "😀",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6))
def test_statistics_equal_a_plain_python_count(batch: list[str]) -> None:
    # Script by name in the reference, by block in the table: differs for letters such as Lisu or CJK radicals,
    # which the random texts are free to contain; the scripts of the pieces themselves are compared below.
    scripts = {name for name in STATISTICS if name.split("_")[0] in ("latin", "cyrillic", "cjk", "arabic", "other")}
    for text, measured in zip(batch, _measure(batch), strict=True):
        expected = reference(text)
        assert set(expected) == set(STATISTICS)
        for name in set(STATISTICS) - scripts:
            assert measured[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), (name, text)
        if any(unicodedata.category(c)[0] == "L" for c in text):
            assert sum(measured[name] for name in scripts) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "word", "\n a", "e\u0301", "\u0301", "x\n\nx\n\n\nx", "...", "}", "\x00", "a\n \na"]
)
def test_boundary_texts_equal_a_plain_python_count(text: str) -> None:
    measured, expected = _measure([text])[0], reference(text)
    assert measured == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_script_shares_follow_the_letters() -> None:
    rows = _measure(["abcd жжж 中文 ع श", "日本語 ツ 한국", "Ünïçødé ﬁ", "12 !?"])
    assert rows[0]["latin_fraction"] == pytest.approx(4 / 11)
    assert rows[0]["cyrillic_fraction"] == pytest.approx(3 / 11)
    assert rows[0]["cjk_fraction"] == pytest.approx(2 / 11)
    assert rows[0]["arabic_fraction"] == rows[0]["other_script_fraction"] == pytest.approx(1 / 11)
    assert rows[1]["cjk_fraction"] == rows[2]["latin_fraction"] == 1
    assert sum(rows[3][name] for name in STATISTICS if name.endswith("_fraction") and name.startswith("latin")) == 0


def test_scripts_by_block_agree_with_character_names() -> None:
    """Letters of the named scripts below the supplementary planes; small extensions elsewhere count as other."""
    names = {Kind.LATIN: "LATIN", Kind.CYRILLIC: "CYRILLIC", Kind.ARABIC: "ARABIC", Kind.CJK: "CJK UNIFIED"}
    letters = [p for p in range(0x10000) if unicodedata.category(chr(p))[0] == "L"]
    for kind, name in names.items():
        own = [p for p in letters if unicodedata.name(chr(p), "").startswith(name)]
        assert len(own) > 200
        assert np.mean(kinds()[own] == kind) > 0.97
    hangul = [p for p in letters if unicodedata.name(chr(p), "").startswith(("HANGUL", "HIRAGANA", "KATAKANA"))]
    assert np.all(kinds()[hangul] == Kind.CJK)


def test_words_and_kinds_agree_with_the_regular_expressions_of_polars() -> None:
    points = [p for p in range(0x3100) if not 0xD800 <= p < 0xE000]
    frame = pl.DataFrame({"c": list(map(chr, points))})
    space = frame["c"].str.contains(r"^\s$").to_numpy()
    assert np.array_equal(kinds()[points] <= Kind.NEWLINE, space)
    digit = frame["c"].str.contains(r"^\p{Nd}$").to_numpy()
    assert np.array_equal(kinds()[points] == Kind.DIGIT, digit)


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, min_size=2, max_size=8), st.integers(0, 2**31), st.sampled_from([1, 20, 1 << 20]))
def test_neither_neighbours_nor_slices_change_a_document(batch: list[str], seed: int, slice_bytes: int) -> None:
    together = _measure(batch)
    order = np.random.default_rng(seed).permutation(len(batch))
    before = statistics.SLICE_BYTES
    statistics.SLICE_BYTES = slice_bytes
    try:
        shuffled = _measure([batch[i] for i in order])
    finally:
        statistics.SLICE_BYTES = before
    assert [together[i] for i in order] == shuffled
    assert _measure([batch[0]])[0] == together[0]


def test_no_documents_and_null_texts_are_no_trouble() -> None:
    assert _measure([]) == []
    frame = add_statistics(pl.DataFrame({"text": [None, "a"], "domain": ["d", "d"]}))
    assert frame["words"].to_list() == [0, 1]


def test_a_slice_has_room_for_the_shortest_documents_with_a_shingle() -> None:
    count = statistics.SLICE_BYTES // len("a b c d e")
    frame = add_statistics(pl.DataFrame({"text": ["a b c d e"] * count, "domain": ["d"] * count}))
    assert frame["words"].to_list() == [5] * count
    assert frame["duplicate_shingle_fraction"].sum() == 0
