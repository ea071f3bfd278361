"""Numbers with sources, ledger rows as examples, how a number is written, and tables made of numbers."""

import dataclasses

import pytest

from pipeline_math.documents import recorded
from pipeline_math.documents.number import (
    Constant,
    DocumentError,
    Number,
    change,
    compute,
    constant,
    minus,
    recorded_field,
)
from pipeline_math.documents.show import show, significant
from pipeline_math.documents.table import Shown, Table
from pipeline_math.pretrain_step import mfu


def test_a_number_that_its_source_does_not_give_is_refused():
    half = compute(mfu, 1.0, 1.0, 1, 2.0, unit="share")
    half.check()
    with pytest.raises(DocumentError, match=r"pretrain_step\.mfu"):
        dataclasses.replace(half, value=0.6).check()
    with pytest.raises(DocumentError, match="no such module"):
        Constant("no_module.NAME").value()
    with pytest.raises(DocumentError, match="has no NAME"):
        constant("pretrain_step.NAME", "")
    with pytest.raises(DocumentError, match="no named function"):
        compute(lambda: 1.0, unit="")
    with pytest.raises(DocumentError, match="units differ"):
        minus(half, constant("pretrain_step.BATCH_AT_REFERENCE", "tokens"))


def test_a_ledger_row_that_is_gone_is_refused():
    row = recorded.all_rows()[0]
    recorded_field(row, "measured", "").check()
    with pytest.raises(DocumentError, match="is gone"):
        recorded_field(dataclasses.replace(row, run="another"), "measured", "")
    with pytest.raises(DocumentError, match="no row"):
        recorded.newest("pretrain", "no_quantity")


def test_the_example_run_is_the_newest_of_a_profile(monkeypatch):
    """Calibration runs of own parameters are later and must not become the example."""
    row = recorded.newest("pretrain", "step_seconds")
    own = dataclasses.replace(row, run="own", profile=recorded.OWN_PARAMETERS, time="9999")
    later = dataclasses.replace(row, run="later", time="9998")
    monkeypatch.setattr(recorded, "all_rows", lambda: (own, row, later))
    assert recorded.newest("pretrain", "step_seconds").run == "later"
    monkeypatch.setattr(recorded, "all_rows", lambda: (own,))
    assert recorded.newest("pretrain", "step_seconds").run == "own"


def test_a_run_whose_name_is_all_digits_is_shown(monkeypatch):
    """One in forty shortened hashes has no letter; the rule against typed numbers refused such a table of runs."""
    row = recorded.newest("pretrain", "step_seconds")
    digits = dataclasses.replace(row, run="1234567890", key="0987654321", git="1122334455", profile="24h")
    monkeypatch.setattr(recorded, "all_rows", lambda: (digits,))
    runs = recorded.ledger_values("pretrain")["runs"]
    assert isinstance(runs, Table)
    assert "| `12345678` | pretrain | `09876543` |" in runs.markdown("runs")


@pytest.mark.parametrize(
    ("value", "unit", "spec", "text"),
    [
        (19.75e9, "B", "", "19.8 GB"),
        (887.1e6, "FLOP/token", ".4g", "887.1 MFLOP/token"),
        (8.954e9, "tokens", "", "8.95 B tokens"),
        (32768, "tokens", "", "32,768 tokens"),
        (546133.0, "tokens/s", "", "546 k tokens/s"),
        (10945.4, "s", "plain , ", "10,945 s"),
        (10945.4, "s", "", "3.04 h"),
        (0.000225, "s", "", "225 µs"),
        (0.462, "share", "", "46.2 %"),
        (0.17, "share", "signed .1%", "+17.0 %"),
        (-0.05, "share", "signed .0%", "-5 %"),
        (0.0, "share", "signed .1%", "0.0 %"),
        (3, "", "", "3"),
        (1.23e-7, "", "", "1.23e-7"),
    ],
)
def test_numbers_are_written_with_prefix_digits_and_unit(value, unit, spec, text):
    assert show(Number(value, unit, Constant("")), spec) == text


def test_rounding_up_does_not_add_a_digit():
    assert significant(9.996) == "10.0"
    assert significant(0) == "0"


def test_a_table_refuses_typed_numbers_and_missing_cells():
    half = compute(mfu, 1.0, 1.0, 1, 2.0, unit="share")
    twice = change(
        constant("training_memory.CHUNK_LOGIT_BYTES", "B"), constant("training_memory.CHUNK_LOGIT_BYTES", "B")
    )
    table = Table(("a", "b"), [["d12", half], ["x", Shown(twice, "signed .0%")]])
    assert table.markdown("t").splitlines()[1:] == ["| --- | --: |", "| d12 | 50.0 % |", "| x | 0 % |"]
    with pytest.raises(DocumentError, match="12 typed"):
        Table(("a", "b"), [["12", half]]).markdown("t")
    with pytest.raises(DocumentError, match="2 columns"):
        Table(("a", "b"), [["x"]]).markdown("t")
    with pytest.raises(DocumentError, match="no rows"):
        Table(("a", "b"), []).markdown("t")
