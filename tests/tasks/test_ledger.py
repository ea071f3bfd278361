"""The ledger: every finished stage once, calibration from it, and what a forecast gains."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_math.constants import prior_of
from pipeline_math.forecast import total
from pipeline_math.hardware import find_hardware
from pipeline_math.ledger import Row, coverage, mean_absolute_log_error, read_csv, write_csv
from pipeline_math.stage_terms import terms_of
from tasks import _forecast, _ledger, _machine
from tasks._context import EventLog

CPU = find_hardware("cpu-2core")
CORPUS = {"raw_bytes": 3.0e7, "documents": 1000.0, "documentation_sources": 1.0}


def row(stage: str = "corpus", quantity: str = "seconds", **changes: object) -> Row:
    values = {
        "predicted": 10.0,
        "low": 8.0,
        "high": 13.0,
        "measured": 11.0,
        "machine": _machine.fingerprint(),
        "key": "K",
        "run": "r1",
        "hardware": "cpu-2core",
        "profile": "own",
        "git": "",
        "time": "2026-01-01T00:00:00+0000",
        "amounts": CORPUS,
    }
    return Row(stage, quantity, **(values | changes))


def write_log(root: Path, name: str, rows: list[Row], status: str = "FINISHED", run: str | None = "run-1") -> Path:
    """An event log as the runner leaves it."""
    from pipeline_math.ledger import as_mapping

    path = root / "work" / rows[0].stage / name / "events.jsonl"
    log = EventLog(path)
    log.write("start")
    log.write("ledger", rows=[as_mapping(r) | {"run": ""} for r in rows])
    log.write("end", status=status)
    if run:
        path.with_suffix(".sent.json").write_text(json.dumps({"run_id": run, "log_id": "l"}))
    return path


def test_finished_stages_are_collected_once(tmp_path):
    write_log(tmp_path, "a", [row(), row(quantity="kept_share", predicted=None, low=None, high=None, measured=0.8)])
    write_log(tmp_path, "b", [row(stage="shards")], status="FAILED")
    assert _ledger.collect(tmp_path) == {"corpus"}
    assert _ledger.collect(tmp_path) == set()
    found = _ledger.rows(tmp_path)
    assert [(r.stage, r.quantity, r.run) for r in found] == [
        ("corpus", "seconds", "run-1"),
        ("corpus", "kept_share", "run-1"),
    ]
    assert found[0] == row(run="run-1")
    assert found[1].predicted is None and found[1].inside is None and found[1].log_error is None


def test_a_kill_after_the_ledger_was_written_repeats_no_row(tmp_path):
    """A mark beside the log, written after the ledger, told what was collected: a kill between repeated the rows."""
    log = write_log(tmp_path, "a", [row()])
    _ledger.collect(tmp_path)
    assert {path.name for path in log.parent.iterdir()} == {"events.jsonl", "events.sent.json"}  # the ledger tells
    assert _ledger.collect(tmp_path) == set()
    assert len(_ledger.rows(tmp_path)) == 1


def test_a_stage_that_was_run_again_is_collected_again(tmp_path):
    """A forced run has the same key, but not the same time."""
    write_log(tmp_path, "a", [row(measured=11.0)])
    _ledger.collect(tmp_path)
    write_log(tmp_path, "b", [row(measured=12.0, time="2026-01-01T00:00:01+0000")])
    assert _ledger.collect(tmp_path) == {"corpus"}
    assert [r.measured for r in _ledger.rows(tmp_path)] == [11.0, 12.0]


def test_rows_stand_in_the_order_of_their_times(tmp_path):
    """Logs are found in the order of their names, which are hashes; the newest row is the last. Zones may differ."""
    write_log(tmp_path, "a", [row(measured=3.0, time="2026-01-01T10:00:00+0000")])
    write_log(tmp_path, "b", [row(measured=2.0, time="2026-01-01T11:00:00+0200")])
    _ledger.collect(tmp_path)
    write_log(tmp_path, "c", [row(measured=1.0, time="2026-01-01T08:00:00+0000")])
    _ledger.collect(tmp_path)
    assert [r.measured for r in _ledger.rows(tmp_path)] == [1.0, 2.0, 3.0]


def test_a_resumed_stage_tells_nothing_of_its_process(tmp_path, monkeypatch):
    """Seconds and peak memory are those of the process that finished it; what it made is complete."""
    monkeypatch.setattr(_machine, "fingerprint", lambda: "m")
    monkeypatch.setattr(_ledger, "git_sha", lambda root: "")
    measured = {"seconds": 1.0, "peak_memory_bytes": 2.0, "output_bytes": 3.0}
    for resumed, expected in ((False, set(measured)), (True, {"output_bytes"})):
        events = EventLog(tmp_path / str(resumed) / "events.jsonl")
        events.write("resumed" if resumed else "start")
        context = SimpleNamespace(
            stage="corpus",
            root=tmp_path,
            out=tmp_path,
            events=events,
            key="K",
            amounts={},
            predicted={},
            measured=measured,
        )
        assert {own["quantity"] for own in _ledger.rows_of(context)} == expected


def test_a_log_that_mlflow_never_saw_is_named_by_itself(tmp_path):
    write_log(tmp_path, "abc", [row()], run=None)
    _ledger.collect(tmp_path)
    assert _ledger.rows(tmp_path)[0].run == "log-abc"


def test_calibration_learns_and_the_next_forecast_uses_it(tmp_path):
    """A machine twice as slow at everything as the class: known after one run."""
    terms = terms_of("corpus", "seconds", CORPUS, CPU)
    assert terms
    truth = 2.0 * total(terms, prior_of(CPU))
    write_log(tmp_path, "a", [row(measured=truth)])
    _ledger.collect(tmp_path)
    assert _forecast.read_calibration(CPU, _machine.fingerprint(), tmp_path) is None
    found = _ledger.calibrate(tmp_path)
    assert set(found) == {"cpu-2core"}
    known = _forecast.read_calibration(CPU, _machine.fingerprint(), tmp_path)
    assert known == found["cpu-2core"]
    from pipeline_math.constants import noise_of
    from pipeline_math.forecast import forecast

    again = forecast("corpus.seconds", terms, known, noise_of("seconds"))
    assert again.value == pytest.approx(truth, rel=0.05)
    assert again.low <= truth <= again.high
    assert _forecast.read_calibration(CPU, "another machine", tmp_path) is None


def test_rows_of_other_machines_classes_and_versions_teach_nothing(tmp_path):
    odd = [
        row(machine="another machine", measured=1000.0),
        row(hardware="no-such-class", measured=1000.0),
        row(amounts={"unknown": 1.0}, measured=1000.0),
        row(quantity="kept_share", measured=0.5),
        row(measured=-1.0),
    ]
    write_log(tmp_path, "a", odd)
    _ledger.collect(tmp_path)
    assert _ledger.calibrate(tmp_path) == {}


def test_damaged_calibrations_are_ignored(tmp_path):
    path = tmp_path / _forecast.CALIBRATION
    path.parent.mkdir()
    for content in ("", "{", "[]", '{"m": {"cpu-2core": {"names": []}}}'):
        path.write_text(content)
        assert _forecast.read_calibration(CPU, "m", tmp_path) is None
        assert _ledger.calibrate(tmp_path) == {}
        assert json.loads(path.read_text())[_machine.fingerprint()] == {}


def test_a_calibration_with_other_constants_is_left_out(tmp_path, capsys):
    """After an upgrade the plan met a constant that the stored calibration lacked, and died of a KeyError."""
    current, path = prior_of(CPU), tmp_path / _forecast.CALIBRATION
    path.parent.mkdir()
    for names in (current.names[1:], (*current.names[1:], "former"), (*current.names, "former")):
        old = {**current.as_json(), "names": list(names)}
        path.write_text(json.dumps({"m": {"cpu-2core": old}}))
        _forecast._tell_once.cache_clear()
        assert _forecast.read_calibration(CPU, "m", tmp_path) is None
        assert _forecast.read_calibration(CPU, "m", tmp_path) is None
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "left out; the next finished pipeline writes a new one" in said
    path.write_text(json.dumps({"m": {"cpu-2core": current.as_json()}}))
    assert _forecast.read_calibration(CPU, "m", tmp_path) == current
    assert capsys.readouterr().err == ""


def test_csv_keeps_every_value(tmp_path):
    rows = [row(), row(stage="gate", predicted=None, low=None, high=None, amounts={}, measured=1 / 3)]
    write_csv(rows, tmp_path / "rows.csv")
    assert read_csv(tmp_path / "rows.csv") == rows
    (tmp_path / "bad.csv").write_text("stage,quantity\n")
    with pytest.raises(ValueError, match="lacks the columns predicted"):
        read_csv(tmp_path / "bad.csv")


def test_coverage_and_error_count_what_was_forecast():
    rows = [row(measured=11.0), row(measured=20.0), row(predicted=None, low=None, high=None)]
    assert coverage(rows) == 0.5
    assert mean_absolute_log_error(rows) == pytest.approx((0.0953 + 0.6931) / 2, abs=1e-4)
    assert coverage([]) is None and mean_absolute_log_error([]) is None
