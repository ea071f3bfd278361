"""Normal form of a text: one spelling of each character, one kind of line end, no invisible clutter.

Four steps, each usable alone and each idempotent. Most texts need little change, so every step first looks for its
characters the fastest way there is.
"""

import re
import unicodedata

_OTHER_LINE_ENDS = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c")
# C0 and C1 controls except tab and line ends; zero-width space, byte order mark; unpaired surrogates; bidi overrides.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\ufeff\ud800-\udfff\u202a-\u202e]")
_BLANK_LINES = re.compile(r"\n{3,}")


def line_ends(text: str) -> str:
    """Every line ends with "\\n": carriage returns, vertical tabs, form feeds and Unicode separators are replaced."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for character in _OTHER_LINE_ENDS:
        if character in text:
            text = text.replace(character, "\n")
    return text


def controls(text: str) -> str:
    """Without control characters, zero-width spaces, byte order marks, bidi overrides and unpaired surrogates."""
    return _INVISIBLE.sub("", text)


def unicode_nfc(text: str) -> str:
    """Canonical composition (Unicode Annex 15): each accented letter has one spelling."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", text)


def whitespace(text: str) -> str:
    """No white space at line ends, at most one blank line in a row, no blank lines around. Indentation stays."""
    if "\r" in text:  # only where line ends were to stay as they are
        text = "\n".join([line.rstrip() + "\r" * line.endswith("\r") for line in text.split("\n")])
    else:
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.rstrip().lstrip("\n")


def normalise(text: str) -> str:
    """NFC, "\\n" line ends, no control characters, no trailing space, at most one blank line in a row, no outer space.

    Indentation stays, since code and lists live on it. Applying it twice changes nothing.
    """
    # Removing characters can bring a letter and its accent together, so composition comes after it.
    return whitespace(unicode_nfc(controls(line_ends(text))))
