"""Own conversations from files: every bad line is counted and named, too many fail; none contains a benchmark item."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tasks._errors import StageError
from tasks.benchmarks.items import BenchmarkItem, read_items
from tasks.benchmarks.overlap import NgramIndex
from tasks.conversations.decontamination import index_of, without_benchmarks
from tasks.conversations.generators import Conversation
from tasks.conversations.jsonl import read_conversations

DATA = Path(__file__).parents[4] / "shared" / "data"
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


LONG = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
LEAKED = "a ROBE takes 2 bolts\nof blue fiber -- and half that much, white fiber"
OLDER = "Is the capital of France older than Rome?"
ITEMS = [
    BenchmarkItem("gsm", "gsm/1", (LONG, "It takes 3 bolts"), LONG),
    BenchmarkItem("quiz", "quiz/1", ("Q: Was it bitcoin?\nA:", "yes", "no"), "Was it bitcoin?"),
    BenchmarkItem("quiz", "quiz/2", (f"Q: {OLDER}\nA:",), OLDER),
]


def exchange(question, reply="well"):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def with_call(question, code):
    parts = [{"type": "python", "text": code}, {"type": "output", "text": "3"}, {"type": "text", "text": "Three."}]
    return [{"role": "user", "content": question}, {"role": "assistant", "parts": parts}]


def test_conversations_with_benchmark_items_are_left_out_and_counted(tmp_path):
    leaks = [
        exchange(f"Please solve: {LEAKED}"),  # a 13-gram in the first user message
        exchange("Give me a problem", f"Here: {LEAKED}"),  # in a reply
        [*exchange("hi"), *exchange(f"Now {LEAKED}")],  # in a later user message
        [{"role": "system", "content": f"Never say {LEAKED}"}, *exchange("hello")],
        with_call("compute", f"print('{LEAKED}')"),  # in a tool call
        exchange("was it BITCOIN"),  # a question too short to search for, as a whole message
        exchange("Was it bitcoin?\nOptions:\n- yes\n- no"),
        exchange("Tell me, is the capital of France older than Rome, please?"),  # a short question inside a message
        [*exchange(LONG, LONG), *exchange("Was it bitcoin?")],  # two turns and one item: one conversation
    ]
    clean = [
        exchange("hi", "Was it bitcoin?"),  # whole questions are compared with what users ask first
        [*exchange("hi"), *exchange("Was it bitcoin?")],
        exchange("A robe takes 2 bolts of blue fiber and half that much red fiber."),  # 12 words
        with_call("compute", "1+2"),
    ]
    write(tmp_path, "a.jsonl", [{"messages": messages} for messages in leaks + clean])
    found, report = read_conversations(tmp_path, "*.jsonl", 0, 0, NgramIndex.build(ITEMS))
    assert sorted(c.source for c in found) == sorted(f"a.jsonl:{len(leaks) + k + 1}" for k in range(len(clean)))
    contaminated = report.contaminated
    assert contaminated["conversations"] == len(leaks)
    assert contaminated["by_turn"] == {"first_user": 5, "user": 1, "assistant": 3, "system": 1}
    assert contaminated["searched"] == {"benchmarks": 2, "items": 3, "searchable": 2}
    counts = {name: (own["items_found"], own["documents"]) for name, own in contaminated["benchmarks"].items()}
    assert counts == {"gsm": (1, 6), "quiz": (2, 3)}
    assert contaminated["benchmarks"]["gsm"]["samples"][0] == {
        "item": "gsm/1", "document": "a.jsonl:1", "ngrams_shared": 2,
        "words": "a robe takes 2 bolts of blue fiber and half that much white",
    }  # fmt: skip
    assert json.loads(json.dumps(contaminated)) == contaminated  # it is written into the mixture report


def test_benchmarks_that_are_not_found_do_not_change_the_order(tmp_path):
    write(tmp_path, "a.jsonl", [GOOD] * 30)
    plain, without = read_conversations(tmp_path, "*.jsonl", 0, 5)
    searched, report = read_conversations(tmp_path, "*.jsonl", 0, 5, NgramIndex.build(ITEMS))
    assert searched == plain
    assert without.contaminated is None
    assert report.contaminated["conversations"] == 0
    assert report.contaminated["benchmarks"] == {}


def test_a_file_of_nothing_but_benchmark_items_fails(tmp_path):
    write(tmp_path, "a.jsonl", [{"messages": exchange(LEAKED)}] * 3)
    with pytest.raises(StageError, match=r"all 3 conversations contain benchmark items \(gsm\)"):
        read_conversations(tmp_path, "*.jsonl", 0, 0, NgramIndex.build(ITEMS))


def test_a_folder_without_benchmarks_gives_no_index(tmp_path):
    (tmp_path / "README.md").write_text("put benchmarks here")
    assert index_of(tmp_path) is None
    write(tmp_path, "a.jsonl", [{"question": LONG}])
    assert index_of(tmp_path).names == ("a",)


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the development data are not here")
def test_the_development_conversations_contain_the_items_they_are_known_to_contain():
    """The audit (13-grams shared by first user turns) is reproduced; all it has found, and more, is left out."""
    items = list(read_items(DATA / "eval"))
    ngrams_only = NgramIndex.build(item._replace(question="") for item in items)
    everything = NgramIndex.build(items)
    audit, found = {}, Counter()
    for path in sorted((DATA / "chat").glob("*.jsonl.gz")):
        name = path.name.removesuffix(".jsonl.gz")
        conversations, _ = read_conversations(path.parent, path.name, 0.01, 0)
        first = [Conversation(c.kind, c.source, c.messages[:1]) for c in conversations]
        _, report = without_benchmarks(first, ngrams_only)
        audit |= {(name, benchmark): own["documents"] for benchmark, own in report["benchmarks"].items()}
        kept, report = without_benchmarks(conversations, everything)
        found.update({(name, benchmark): own["documents"] for benchmark, own in report["benchmarks"].items()})
        assert len(kept) + report["conversations"] == len(conversations)
        assert without_benchmarks(kept, everything)[1]["conversations"] == 0
    assert audit == {
        ("flan_cot_aqua", "math_qa"): 376, ("flan_cot_aqua", "aqua"): 2, ("flan_cot_ecqa", "commonsense_qa"): 288,
        ("flan_cot_strategyqa", "bigbench_strategy_qa"): 264, ("dolly_hhrlhf_small", "boolq"): 2,
        ("gsm8k_train", "gsm8k_test"): 3, ("chatterbot_multilingual", "mmlu_redux"): 1,
        ("gpteacher_codegen", "math"): 1,
    }  # fmt: skip
    assert all(found[key] >= count for key, count in audit.items())
    assert found["dolly_hhrlhf_small", "mmlu_redux"] == 1  # a whole question
    # Most questions of these two are shorter than 13 words, which the audit could not see.
    assert found["flan_cot_strategyqa", "bigbench_strategy_qa"] > 1500
    assert found["flan_cot_ecqa", "commonsense_qa"] > 550
