"""The normal form of a text."""

from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.normalise import normalise


@given(st.text())
def test_twice_equals_once_and_the_result_is_utf8(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    once.encode("utf-8")


def test_each_rule() -> None:
    assert normalise("a\r\nb\rc\u2028d") == "a\nb\nc\nd"
    assert normalise("e\u0301") == "é"
    assert normalise("a\x00b\x1b\u200b\ufeffc") == "abc"
    assert normalise("a  \t\nb ") == "a\nb"
    assert normalise("a\n\n\n\n b") == "a\n\n b"
    assert normalise("\n\n    indented\n\ttab") == "    indented\n\ttab"
    assert normalise("a\ud800b") == "ab"
