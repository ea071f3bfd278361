"""Own conversations from files: every bad line is counted and named, too many fail."""

import gzip
import json

import pytest

from tasks._errors import StageError
from tasks.conversations.jsonl import read_conversations

GOOD = {"id": 1, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def write(folder, name, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def test_good_lines_are_read_with_system_role_and_origin(tmp_path):
    with_system = {"messages": [{"role": "system", "content": "s"}, *GOOD["messages"]]}
    write(tmp_path, "a.jsonl", [GOOD, "", with_system])
    write(tmp_path, "sub/b.jsonl.gz", [GOOD])
    found, report = read_conversations(tmp_path, "**/*.jsonl*", 0.0, seed=0)
    assert sorted(c.source for c in found) == ["a.jsonl:1", "a.jsonl:3", "b.jsonl.gz:1"]
    assert report.read == 3
    assert max(len(c.messages) for c in found) == 3


def test_order_follows_the_seed_only(tmp_path):
    write(tmp_path, "a.jsonl", [GOOD] * 30)
    orders = [[c.source for c in read_conversations(tmp_path, "*.jsonl", 0, seed)[0]] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_bad_lines_are_counted_by_reason_and_sampled(tmp_path):
    bad = ["{not json", {"text": "x"}, {"messages": [{"role": "user", "content": "a"}]}, {"messages": "hi"}, "[1]"]
    write(tmp_path, "a.jsonl", [GOOD] * 95 + bad)
    found, report = read_conversations(tmp_path, "*.jsonl", 0.05, seed=0)
    assert len(found) == 95
    assert sum(report.bad.values()) == 5
    assert any("a.jsonl:96" in sample for sample in report.samples)


def test_too_many_bad_lines_fail_and_name_file_and_line(tmp_path):
    write(tmp_path, "a.jsonl", [GOOD, "{broken"])
    with pytest.raises(StageError, match=r"1 of 2 lines are bad(?s:.*)a\.jsonl:2"):
        read_conversations(tmp_path, "*.jsonl", 0.4, seed=0)


def test_a_user_turn_at_the_end_is_cut_and_counted(tmp_path):
    write(tmp_path, "a.jsonl", [{"messages": [*GOOD["messages"], {"role": "user", "content": "c"}]}])
    found, report = read_conversations(tmp_path, "*.jsonl", 0, seed=0)
    assert [m["role"] for m in found[0].messages] == ["user", "assistant"]
    assert report.trimmed_user_turns == 1


def test_a_glob_without_files_fails(tmp_path):
    with pytest.raises(StageError, match="matches no file"):
        read_conversations(tmp_path, "*.jsonl", 0, seed=0)


def test_a_broken_archive_is_a_stage_error(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(StageError, match="cannot be read"):
        read_conversations(tmp_path, "*.gz", 0, seed=0)
