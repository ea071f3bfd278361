"""A tracking server that refuses, dies and comes back: the stage does not notice, and MLflow misses nothing.

MLflow is a stand-in with its two rules that matter here: at most 1000 points in one call, and of points that are equal
in name, time, step and value it keeps one.
"""

import json
import os
import sys
import threading
import time
from collections import Counter
from types import ModuleType, SimpleNamespace

import pytest

from tasks import _context, _replaying, _tracking
from tasks._context import EventLog, EventReader, read_events

START = {"run_name": "pretrain", "invocation": "i", "params": {"seed": "0"}, "tags": {"stage": "architecture"}}


class Server:
    """Everything a tracking client is asked for, kept in memory. `refuse_after` calls it is dead."""

    def __init__(self):
        self.runs, self.points, self.calls, self.refuse_after, self.ended = [], Counter(), 0, None, []
        self.largest_batch = 0

    def _call(self):
        self.calls += 1
        if self.refuse_after is not None and self.calls > self.refuse_after:
            raise ConnectionError("connection refused\nand a long story")

    def search_runs(self, _, filter_string, max_results):
        self._call()
        value = filter_string.split("'")[1]
        return [run for run in self.runs if value in run.tags.values()][:max_results]

    def create_run(self, _, start_time, tags, run_name):
        self._call()
        run = SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.runs))), tags=tags, name=run_name)
        self.runs.append(run)
        return run

    def log_batch(self, run_id, metrics=(), params=()):
        self._call()
        assert len(metrics) <= 1000
        self.largest_batch = max(self.largest_batch, len(metrics))
        self.points.update({(run_id, *point): 1 for point in metrics})

    def set_terminated(self, run_id, status, end):
        self._call()
        self.ended.append(run_id)

    def update_run(self, run_id, status):
        self._call()

    def set_tag(self, run_id, name, value):
        self._call()

    def of(self, name):
        """Points of a metric as {step: value}; two of one step would be a zigzag."""
        found = [(step, value) for _, metric, value, _, step in self.points if metric == name]
        assert len(found) == len(dict(found)), f"{name}: a step has two values"
        return dict(found)


@pytest.fixture
def server(monkeypatch, tmp_path):
    entities = ModuleType("mlflow.entities")
    entities.Metric = entities.Param = lambda *values: values
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    made = Server()
    monkeypatch.setattr(_tracking, "client", lambda: made)
    monkeypatch.setattr(_tracking, "experiment_id", lambda client: "0")
    monkeypatch.setattr(_tracking, "ROOT", tmp_path)
    monkeypatch.setattr(_replaying, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(_replaying, "RETRY_SECONDS", (0.02, 0.04))
    return made


@pytest.fixture
def log(tmp_path):
    made = EventLog(tmp_path / "work" / "architecture" / "key" / "events.jsonl")
    made.write("start", **START)
    return made


def curve(first, last):
    return [{"step": step, "loss": 1 / step, "lr_matrices": 0.02, "mfu": 0.3} for step in range(first, last + 1)]


def test_columns_of_a_curve_become_metrics_that_belong_together():
    columns = ["loss", "val_bpb", "lr", "lr_matrices", "grad_norm_head", "update_ratio_value_embeddings", "mfu"]
    assert [_tracking.curve_metric(column) for column in columns] == [
        "loss", "val_bpb", "lr", "lr/matrices", "grad_norm/head", "update_ratio/value_embeddings", "machine/mfu",
    ]  # fmt: skip


def test_points_arrive_in_batches_that_mlflow_takes(server, log):
    log.curve(curve(1, 800))
    assert not _tracking.Replay(log.path).send_new()
    assert server.of("loss") == {step: 1 / step for step in range(1, 801)}
    assert set(server.of("lr/matrices")) == set(server.of("machine/mfu")) == set(range(1, 801))
    assert 500 < server.largest_batch <= 1000


def test_a_server_that_dies_midway_gets_the_rest_when_it_is_back(server, log, capsys):
    """It dies within a batch of events, some of which it has: those are sent again and kept once."""
    log.curve(curve(1, 1500))
    server.refuse_after = 8
    timers = [
        threading.Timer(0.10, lambda: setattr(server, "refuse_after", None)),
        # One thread: on a busy machine two would mix the end with the rows before it.
        threading.Timer(0.15, lambda: (log.curve(curve(1401, 1600)), log.write("end", status="FINISHED"))),
    ]
    for timer in timers:
        timer.start()
    _replaying.follow(log.path, 0)
    told = capsys.readouterr().err
    assert told.count("ConnectionError: connection refused; it is asked again") == 1
    assert told.count("MLflow answers again") == 1
    assert server.of("loss") == {step: 1 / step for step in range(1, 1601)}
    assert max(server.points.values()) >= 2, "nothing was sent twice: this test shows less than it says"
    assert [run.name for run in server.runs if run.name == "pretrain"] == ["pretrain"]
    assert server.ended


def test_a_server_that_never_answers_ends_nothing_and_the_next_stage_sends_all(server, log, capsys):
    server.refuse_after = 0
    threading.Timer(0.1, lambda: (log.curve(curve(1, 3)), log.write("end", status="FINISHED"))).start()
    assert _replaying.follow_stage(log.path, 0) == 1
    assert log.path.with_name("events.ready").exists()  # the stage does not wait for the connection
    assert not server.points and "ConnectionError" in capsys.readouterr().err
    server.refuse_after = None
    assert _replaying.send_unsent() == 1
    assert set(server.of("loss")) == {1, 2, 3} and server.ended
    calls = server.calls
    assert _replaying.send_unsent() == 0 and server.calls == calls


def test_the_end_of_the_stage_cuts_a_long_pause_short(server, log, monkeypatch):
    monkeypatch.setattr(_replaying, "RETRY_SECONDS", (60.0, 60.0))
    server.refuse_after = 0
    threading.Timer(0.05, lambda: log.write("end", status="FINISHED")).start()
    started = time.monotonic()
    with pytest.raises(ConnectionError):
        _replaying.follow(log.path, 0)
    assert time.monotonic() - started < 10


def test_a_dead_stage_ends_the_child(server, log, monkeypatch):
    parents = iter([7, 7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    _replaying.follow(log.path, 0)
    assert not server.ended


def test_the_end_of_an_earlier_run_is_not_taken_for_that_of_the_resumed_one(server, log):
    log.curve(curve(1, 2))
    log.write("end", status="KILLED")
    assert _tracking.Replay(log.path).send_new()
    before = len(read_events(log.path))

    def go_on():  # the child is started first
        resumed = EventLog(log.path)
        resumed.write("resumed", code_changed=False)
        resumed.curve(curve(1, 4))
        resumed.write("end", status="FINISHED")

    threading.Timer(0.1, go_on).start()
    _replaying.follow(log.path, before)
    assert set(server.of("loss")) == {1, 2, 3, 4}


def test_steps_that_a_rollback_repeats_are_not_drawn_twice(server, log):
    """Rows 3 and 4 came from the state of step 4; the run went back to step 2 and trains 3 and 4 again."""
    log.curve(curve(1, 4))
    again = [{"step": step, "loss": 9.0} for step in (3, 4)]
    log.curve(again)
    EventLog(log.path).curve([*again, *curve(5, 6)])
    _tracking.Replay(log.path).send_new()
    assert server.of("loss") == {step: 1 / step for step in range(1, 7)}


def test_one_refused_log_does_not_keep_the_others(server, log, tmp_path):
    log.write("unheard_of")
    log.write("end", status="FINISHED")
    other = EventLog(tmp_path / "work" / "gate" / "key" / "events.jsonl")
    other.write("start", **{**START, "tags": {"stage": "gate"}})
    other.write("end", status="FINISHED")
    with pytest.raises(AttributeError, match="unheard_of"):
        _replaying.send_unsent()
    assert json.loads(other.path.with_suffix(".sent.json").read_text())["ended"]


def test_what_an_earlier_version_has_sent_is_not_sent_again(server, log):
    log.write("end", status="FINISHED")
    state = log.path.with_suffix(".sent.json")
    state.write_text(json.dumps({"log_id": "x", "sent": 2, "run_id": "0", "tags": {}, "parent_id": "1"}))
    assert _replaying.send_unsent() == 0
    state.write_text(json.dumps({"log_id": "x", "sent": 1, "run_id": "0", "tags": {}, "parent_id": "1"}))
    assert _replaying.send_unsent() == 1 and server.ended


def test_every_byte_of_a_growing_log_is_read_once(log, monkeypatch):
    """Polled after every event, a log used to be read from its beginning each time."""
    parsed = []
    real = json.loads
    monkeypatch.setattr(_context.json, "loads", lambda line: parsed.append(len(line)) or real(line))
    reader = EventReader(log.path)
    found = []
    for step in range(1, 200):
        log.curve([{"step": step, "loss": 1.0}])
        found += reader.new()
    assert [event["step"] for event in found[1:]] == list(range(1, 200))
    assert sum(parsed) + len(parsed) == log.path.stat().st_size


def test_a_long_log_is_read_in_parts(log):
    log.curve(curve(1, 50))
    reader = EventReader(log.path)
    parts = []
    while part := reader.new(at_most_bytes=500):
        parts.append(part)
    assert len(parts) > 5
    assert [event for part in parts for event in part] == read_events(log.path)


def test_a_line_that_is_being_written_is_read_when_it_is_whole(log):
    reader = EventReader(log.path)
    reader.new()
    with log.path.open("a") as file:
        file.write('{"event": ')
        file.flush()
        assert reader.new() == []
        file.write('"end"}\n')
    assert reader.new() == [{"event": "end"}]


def test_a_torn_line_is_passed_over_and_swallows_nothing(log):
    """A killed writer's half line and the first event of the resumed one used to become one unreadable line."""
    with log.path.open("a") as file:
        file.write('{"event": "curve", "st')
    reader = EventReader(log.path)
    assert [event["event"] for event in reader.new()] == ["start"]
    EventLog(log.path).write("resumed", code_changed=False)
    assert [event["event"] for event in reader.new()] == ["resumed"]
    assert [event["event"] for event in read_events(log.path)] == ["start", "resumed"]
