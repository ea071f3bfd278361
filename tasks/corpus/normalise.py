"""Normal form of a text: one spelling of each character, one kind of line end, no invisible clutter."""

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029\x85\x0b\x0c]")
# C0 and C1 controls except tab and newline; zero-width space, byte order mark; unpaired surrogates; bidi overrides.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ud800-\udfff\u202a-\u202e]")
_TRAILING_SPACE = re.compile(r"[^\S\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """NFC, "\\n" line ends, no control characters, no trailing space, at most one blank line in a row, no outer space.

    Indentation stays, since code and lists live on it. Applying it twice changes nothing.
    """
    text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = _BLANK_LINES.sub("\n\n", _TRAILING_SPACE.sub("", text))
    return text.rstrip().lstrip("\n")
