"""What `python -m flows ledger` and `calibrate` print, and which rows the documents get."""

from dataclasses import replace

import pytest

from flows import _ledger as commands
from pipeline_math.ledger import read_csv
from tasks import _ledger
from tests.tasks.test_ledger import row, write_log


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository whose ledger is in a temporary folder."""
    monkeypatch.setattr(commands, "ROOT", tmp_path)
    monkeypatch.setattr(commands, "RECORDED_RUNS", tmp_path / "recorded.csv")
    return tmp_path


def test_an_empty_ledger_says_what_to_do(repository, capsys):
    commands.show_ledger()
    commands.show_calibration()
    out = capsys.readouterr().out
    assert out.count("next: make run") == 2


def test_runs_errors_and_coverage_are_counted(repository, capsys):
    write_log(repository, "a", [row(measured=11.0)])
    write_log(
        repository,
        "b",
        [
            row(measured=20.0, key="L"),
            row(quantity="export_bytes", predicted=5.0, low=5.0, high=5.0, measured=5.0, key="L"),
        ],
    )
    commands.show_ledger()
    out = capsys.readouterr().out
    line = next(text for text in out.splitlines() if text.startswith("corpus        seconds"))
    assert line.split()[2:5] == ["2", "48.3%", "50%"]
    assert "2 forecasts with an interval" in out and "1 exact ones, 1 of them equal" in out
    commands.show_calibration()
    out = capsys.readouterr().out
    assert "raw_bytes" in out and "nothing became stale" in out


def test_documents_get_the_newest_run_of_every_stage(repository):
    write_log(repository, "a", [row(measured=11.0), row(quantity="kept_share", measured=0.8)], run="old")
    _ledger.collect(repository)
    write_log(repository, "b", [row(measured=12.0, key="L")], run="new")
    write_log(repository, "c", [row(stage="shards", measured=3.0)], run="shards")
    write_log(repository, "d", [row(measured=99.0, machine="another machine", key="M")], run="other")
    commands.record_runs()
    found = read_csv(repository / "recorded.csv")
    assert [(r.stage, r.quantity, r.run, r.measured) for r in found] == [
        ("corpus", "seconds", "new", 12.0),
        ("shards", "seconds", "shards", 3.0),
    ]
    assert found[0] == replace(row(measured=12.0, key="L"), run="new")


def test_runs_of_other_machines_leave_the_documents_alone(repository, capsys):
    """Catches a copied ledger from which the documents would quote another machine, or nothing at all."""
    (repository / "recorded.csv").write_text("as it was")
    write_log(repository, "a", [row(machine="another machine")])
    commands.record_runs()
    assert (repository / "recorded.csv").read_text() == "as it was"
    assert "no run of this machine; next: make run" in capsys.readouterr().out
