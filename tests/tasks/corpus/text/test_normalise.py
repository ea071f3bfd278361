"""The normal form of a text."""

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.text.normalise import controls, line_ends, normalise, unicode_nfc, whitespace

STEPS = (line_ends, controls, unicode_nfc, whitespace)
# Every character that a step looks for, among ordinary ones.
busy = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r\x0b\x0c\x85\u2028\u2029\x00\x1b\x7f\u200b\ufeff\u202ea\u0301e\u0323"), st.characters()
    )
)


@given(busy)
def test_twice_equals_once_and_the_result_is_utf8(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    once.encode("utf-8")


@pytest.mark.parametrize("step", STEPS)
@given(text=busy)
def test_each_step_alone_is_idempotent_and_touches_nothing_else(step, text: str) -> None:
    once = step(text)
    assert step(once) == once
    if step in (line_ends, whitespace):
        assert once.split() == re.sub(r"[\x0b\x0c\x85\u2028\u2029]", "\n", text).split() if step is line_ends else True
        assert "".join(once.split()) == "".join(text.split())


def test_each_rule() -> None:
    assert normalise("a\r\nb\rc\u2028d") == "a\nb\nc\nd"
    assert normalise("e\u0301") == "é"
    assert normalise("a\x00b\x1b\u200b\ufeffc") == "abc"
    assert normalise("a  \t\nb ") == "a\nb"
    assert normalise("a\n\n\n\n b") == "a\n\n b"
    assert normalise("\n\n    indented\n\ttab") == "    indented\n\ttab"
    assert normalise("a\ud800b") == "ab"


def test_each_step_leaves_the_work_of_the_others() -> None:
    text = "e\u0301 \r\n\n\n\u200bb"
    assert line_ends(text) == "e\u0301 \n\n\n\u200bb"
    assert controls(text) == "e\u0301 \r\n\n\nb"
    assert unicode_nfc(text) == "é \r\n\n\n\u200bb"
    assert whitespace(text) == "e\u0301\r\n\n\u200bb"


def test_removing_an_invisible_character_still_ends_in_composed_form() -> None:
    """ "e", zero-width space, accent: composing before removing would leave two characters."""
    assert normalise("e\u200b\u0301") == "é"


@given(st.text())
def test_composition_agrees_with_the_standard(text: str) -> None:
    assert unicode_nfc(text) == unicodedata.normalize("NFC", text)


def test_a_long_run_of_spaces_takes_linear_time() -> None:
    """A pattern such as `\\s+$` reads the run again from each of its characters: hours for a megabyte."""
    start = time.perf_counter()
    for filler in (" ", "\t ", "\n", " \n", "\r", "\u3000"):
        assert normalise("a" + filler * (1_000_000 // len(filler)) + "b")[-1] == "b"
    assert time.perf_counter() - start < 5
