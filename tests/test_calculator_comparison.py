"""The comparison with other calculators: runs without them, its document is current, our verdicts are right."""

import contextlib
import io
import json

import pytest

from benchmarks import calculator_comparison, other_calculators
from benchmarks.calculator_comparison import HERE, memory_gib, number_rows
from benchmarks.published_cases import MEMORY_CASES
from tests.contracts.import_closure import ROOT

RECORDED = {name: found["outputs"] for name, found in json.loads(other_calculators.RECORDED.read_text()).items()}


@pytest.fixture(scope="module")
def rows():
    return {row.case: row for row in number_rows(RECORDED)}


def test_the_document_is_what_the_script_prints(monkeypatch):
    """Next when it fails: python -m benchmarks.calculator_comparison > benchmarks/calculators_202611.md"""
    monkeypatch.setattr(other_calculators, "RUNNERS", {})  # as if none were installed
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        calculator_comparison.main()
    assert printed.getvalue() == (ROOT / "benchmarks/calculators_202611.md").read_text(encoding="utf-8")


def test_our_verdicts_are_the_public_ones():
    verdicts = {c.name: (memory_gib(c) <= c.device_gib, c.fits) for c in MEMORY_CASES if c.device_gib is not None}
    assert len(verdicts) == 5
    assert all(ours == public for ours, public in verdicts.values()), verdicts


def test_our_numbers_are_close_to_the_truth_wherever_there_is_one(rows):
    """3.5 %: the largest is the Chinchilla optimum, 72 B where 70 B were trained."""
    ours = {case: row.said[HERE] / row.truth for case, row in rows.items() if HERE in row.said}
    assert len(ours) == 11
    assert all(ratio == pytest.approx(1, abs=0.035) for ratio in ours.values()), ours


def test_every_recorded_output_is_shown(rows):
    """Bug it catches: a case renamed in one file only silently loses the other calculators' answers."""
    shown = {(name, value) for row in rows.values() for name, value in row.said.items()}
    assert {name for name, _ in shown} == {HERE, *RECORDED, *calculator_comparison.PUBLISHED}
    names = {case.name for case in MEMORY_CASES}
    for calculator in ("llm-analysis", "mlsysim"):
        assert names <= set(RECORDED[calculator])
        answered = sum(calculator in row.said for row in rows.values())
        assert answered == len(RECORDED[calculator]) - 5  # the verdicts have a table of their own
