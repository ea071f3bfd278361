"""What every Unicode character counts as in the statistics: one table, looked up once per character.

Covered: general categories of the running Python's Unicode data; white space is the property White_Space, as in the
regular expressions of polars (so U+001C..U+001F, which `str.isspace` accepts, are not white space here).
Not covered: emoji sequences and grapheme clusters; a character is a code point.
"""

import functools
import unicodedata
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """Disjoint; everything up to NEWLINE is white space, everything after it is visible."""

    SPACE = 0
    NEWLINE = 1
    """Only U+000A separates lines."""
    LATIN = 2
    CYRILLIC = 3
    CJK = 4
    """Han, kana, hangul, bopomofo."""
    ARABIC = 5
    OTHER_LETTER = 6
    MARK = 7
    DIGIT = 8
    """Decimal digits (Nd) of any script."""
    OTHER_NUMBER = 9
    PUNCTUATION = 10
    """Ordinary punctuation of prose that is none of the kinds below."""
    BRACKET = 11
    """( and ), also ordinary in prose; ) may follow the end of a sentence."""
    SEMICOLON = 12
    STOP = 13
    """. ! ? end a sentence before white space."""
    QUOTE = 14
    """' and "; may follow the end of a sentence."""
    CLOSING_QUOTE = 15
    WIDE_STOP = 16
    """Stops of scripts that put no space after a sentence, or have their own full stop."""
    ELLIPSIS = 17
    HASH = 18
    OPENING_BRACE = 19
    CLOSING_BRACE = 20
    SYMBOL = 21
    """Everything else that is visible."""


KINDS = len(Kind)
LETTERS = (Kind.LATIN, Kind.CYRILLIC, Kind.CJK, Kind.ARABIC, Kind.OTHER_LETTER)
WORD_KINDS = (*LETTERS, Kind.MARK, Kind.DIGIT, Kind.OTHER_NUMBER)
SYMBOLS = tuple(kind for kind in Kind if kind >= Kind.CLOSING_QUOTE)
"""Visible characters that are neither letters, marks, numbers nor ordinary punctuation of prose."""
SENTENCE_ENDS = (Kind.STOP, Kind.WIDE_STOP, Kind.ELLIPSIS)
SENTENCE_CLOSERS = (Kind.QUOTE, Kind.CLOSING_QUOTE, Kind.BRACKET)
TERMINAL = (*SENTENCE_ENDS, Kind.QUOTE, Kind.CLOSING_QUOTE)
"""A line that ends in one of these ends in terminal punctuation."""
CODE_ENDS = (Kind.SEMICOLON, Kind.OPENING_BRACE, Kind.CLOSING_BRACE)

WHITE_SPACE = "\t\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_SPECIAL = {
    Kind.SPACE: WHITE_SPACE,
    Kind.NEWLINE: "\n",
    Kind.PUNCTUATION: ",:-_`",
    Kind.BRACKET: "()",
    Kind.SEMICOLON: ";",
    Kind.STOP: ".!?",
    Kind.QUOTE: "'\"",
    Kind.CLOSING_QUOTE: "’”»›」』",
    Kind.WIDE_STOP: "。！？．｡।॥۔؟։።⁇⁈⁉‼",
    Kind.ELLIPSIS: "…",
    Kind.HASH: "#",
    Kind.OPENING_BRACE: "{",
    Kind.CLOSING_BRACE: "}",
}
# First and last code points of the blocks of a script; only their letters are counted.
_SCRIPTS = {
    Kind.LATIN: "0041 02AF 1D00 1DBF 1E00 1EFF 2C60 2C7F A722 A7FF AB30 AB6F FB00 FB06 FF21 FF5A",
    Kind.CYRILLIC: "0400 052F 1C80 1C8F 2DE0 2DFF A640 A69F",
    Kind.CJK: "1100 11FF 2E80 2FDF 3005 3007 3040 312F 3130 31BF 31F0 31FF 3400 4DBF 4E00 9FFF A960 A97F AC00 D7FF "
    "F900 FAFF FF66 FFDC 1AFF0 1B16F 20000 323AF",
    Kind.ARABIC: "0600 06FF 0750 077F 0870 08FF FB50 FDFF FE70 FEFC 1EE00 1EEFF",
}


@functools.cache
def kinds() -> NDArray[np.uint8]:
    """`kinds()[code_point]`; built at the first call, in about a fifth of a second."""
    by_category = dict.fromkeys(("Ll", "Lu", "Lt", "Lm", "Lo"), Kind.OTHER_LETTER)
    by_category |= dict.fromkeys(("Mn", "Mc", "Me"), Kind.MARK)
    by_category |= {"Nd": Kind.DIGIT, "Nl": Kind.OTHER_NUMBER, "No": Kind.OTHER_NUMBER}
    category = unicodedata.category
    table = np.array([by_category.get(category(chr(point)), Kind.SYMBOL) for point in range(0x110000)], np.uint8)
    for script, blocks in _SCRIPTS.items():
        bounds = [int(point, 16) for point in blocks.split()]
        for first, last in zip(bounds[::2], bounds[1::2], strict=True):
            block = table[first : last + 1]
            block[block == Kind.OTHER_LETTER] = script
    for kind, characters in _SPECIAL.items():
        table[[ord(character) for character in characters]] = kind
    return table


@functools.cache
def lower_case() -> NDArray[np.uint32]:
    """`lower_case()[code_point]`, where the lower case is a single code point; otherwise the character itself."""
    table = np.arange(0x110000, dtype=np.uint32)
    for point in range(0x20000):  # no letter has case beyond
        lower = chr(point).lower()
        if len(lower) == 1:
            table[point] = ord(lower)
    return table


def is_in(chosen: tuple[Kind, ...]) -> NDArray[np.bool_]:
    """`is_in(chosen)[kind]`."""
    table = np.zeros(KINDS, bool)
    table[list(chosen)] = True
    return table
