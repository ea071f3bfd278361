"""What a stage is told about ranks that failed, and what torchrun is told about machines."""

import pytest

from model.rank_launcher import Launch
from model.rank_reports import FileReporter
from tasks._ranks import _failure, _reports


class Ended:
    """A launcher that has ended."""

    def poll(self) -> int:
        return 1


def test_the_first_failure_of_the_last_attempt_is_named(tmp_path):
    log = tmp_path / "ranks.log"
    log.write_text("\n".join(f"line {number}" for number in range(40)))
    failures = [
        {"rank": 0, "attempt": 0, "text": "RuntimeError: of an earlier attempt"},
        {"rank": 3, "attempt": 1, "text": "OutOfMemoryError: 3 GiB"},
        {"rank": 1, "attempt": 1, "text": "RuntimeError: Connection closed by peer"},
    ]
    text = _failure(Launch(4), 1, failures, log)
    assert "rank 3: OutOfMemoryError: 3 GiB" in text
    assert "earlier attempt" not in text
    assert "it continues from the newest state" in text
    assert text.endswith("line 39")
    assert "no rank said why (code -9)" in _failure(Launch(4), -9, [], log)


def test_half_a_line_of_a_killed_rank_hides_no_other(tmp_path):
    path = tmp_path / "reports.jsonl"
    FileReporter(path, active=True).note("before")
    with path.open("ab") as file:
        file.write(b'{"kind": "note", "te')
    FileReporter(path, active=False).note("silent")
    FileReporter(path, active=True).note("after")
    FileReporter(path, active=False).write("failure", rank=1, attempt=0, text="x")
    kinds = [(line["kind"], line["text"]) for line in _reports(path, Ended()) if line is not None]
    assert kinds == [("note", "before"), ("note", "after"), ("failure", "x")]


def test_one_machine_meets_itself_and_several_meet_at_number_0():
    alone = Launch(2, max_restarts=1).torchrun_arguments()
    assert {"--rdzv-endpoint=127.0.0.1:0", "--nproc-per-node=2", "--max-restarts=1"} <= set(alone)
    for node in (0, 1):
        several = Launch(8, 2, node, "node-0:29500").torchrun_arguments()
        assert {"--rdzv-endpoint=node-0:29500", "--nnodes=2", f"--rdzv-conf=is_host={1 - node}"} <= set(several)


@pytest.mark.parametrize("launch", [Launch(8, 2), Launch(8, 2, 2, "node-0:29500")])
def test_machines_that_cannot_meet_are_refused(launch):
    with pytest.raises(ValueError, match="next: set rendezvous to host:port of machine 0 and node_rank"):
        launch.torchrun_arguments()
