"""Statistics of lines and paragraphs: how they begin and end, how long they are, which come again."""

import numpy as np
from numpy.typing import NDArray

from tasks.corpus.quality.characters import CODE_ENDS, TERMINAL, Kind, is_in
from tasks.corpus.quality.layout import Layout, hash_words, share, total
from tasks.corpus.quality.repetition import RunHashes, group, salt

SHORT_LINE_CHARACTERS = 30
FEW_WORDS = 3
_CODE_WORDS = (
    "def elif except: try: else: async await import #include #define #ifdef #endif using namespace typedef template "
    "class public private protected static const var let val fn func function return struct enum impl package "
    "void int bool char float if( for( while( switch( } }, }; }) }); ) ); ] ]; { [ // /* */ /// /** <!-- --> <? <?php "
    ">>> $ $> ;; fi sudo echo git npm pip SELECT INSERT"
)
CODE_WORDS = tuple(_CODE_WORDS.split())
"""First words of lines that are usually code. Some begin lines of prose as well: the share is a hint, no proof."""


def count_lines(at: Layout, hashes: NDArray[np.uint64]) -> dict[str, NDArray[np.float64]]:
    lines = np.diff(at.lines)
    first, last = at.line_words[:, 0], at.line_words[:, 1] - 1
    initial = at.points[at.word_starts[first]]
    ends = at.word_ends[last]
    final = at.kind[ends - 1]
    dots = at.points == ord(".")
    wide = at.word_ends[last] - at.word_starts[last] >= 3
    ellipsis = (final == Kind.ELLIPSIS) | (wide & dots[ends - 1] & dots[ends - 2] & dots[ends - 3])
    terminal = is_in(TERMINAL)[final]
    code = is_in(CODE_ENDS)[final] | np.isin(hashes[first], hash_words(CODE_WORDS))
    return {
        name: share(total(chosen, at.lines), lines)
        for name, chosen in {
            "bullet_line_fraction": (initial == ord("•")) | (initial == ord("-")),
            "ellipsis_line_fraction": ellipsis,
            "terminal_line_fraction": terminal,
            "unterminated_line_fraction": ~terminal | ellipsis,  # as C4 sees it
            "short_line_fraction": at.line_ends - at.line_starts <= SHORT_LINE_CHARACTERS,
            "few_word_line_fraction": at.line_words[:, 1] - at.line_words[:, 0] < FEW_WORDS,
            "code_line_fraction": code,
        }.items()
    }


def find_duplicate_blocks(
    at: Layout, exact: RunHashes, characters: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Lines and paragraphs that repeat an earlier one of their document, as written."""
    # A line opens a paragraph unless the previous line is the one right before it, in the same document.
    opens = np.ones(len(at.line_starts), bool)
    opens[1:] = at.line_starts[1:] != at.line_ends[:-1] + 1
    opens[at.lines[:-1][at.lines[:-1] < len(opens)]] = True
    paragraph_starts = at.line_starts[opens]
    paragraph_ends = at.line_ends[np.append(opens[1:], True)] if len(opens) else at.line_ends
    paragraphs = np.searchsorted(paragraph_starts, at.starts)
    result = {}
    for name, begin, end, starts in (
        ("line", at.line_starts, at.line_ends, at.lines),
        ("paragraph", paragraph_starts, paragraph_ends, paragraphs),
    ):
        repeats = group(salt(exact(begin, end), starts), np.arange(len(begin))).repeats(len(begin))
        owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[repeats]
        lengths = (end - begin)[repeats]
        result[f"duplicate_{name}_fraction"] = share(np.bincount(owner, minlength=len(characters)), np.diff(starts))
        result[f"duplicate_{name}_character_fraction"] = share(
            np.bincount(owner, lengths, minlength=len(characters)), characters
        )
    return result
