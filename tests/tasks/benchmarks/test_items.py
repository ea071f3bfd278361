"""Benchmark files of every form give items whose texts and questions are those a model is scored on."""

import gzip
import json

import pytest

from tasks._errors import StageError
from tasks.benchmarks.items import bare_question, find_benchmarks, item_of, read_items


def write(folder, name, lines):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


@pytest.mark.parametrize(
    ("record", "texts", "question"),
    [
        (
            {"id": "a/1", "query": "Question: Why?\nA. so\nAnswer:", "choices": ["so", "no"], "gold": 0},
            ("Question: Why?\nA. so\nAnswer:", "so", "no"),
            "Why?",
        ),
        (
            {"context_options": ["Ann met Sue so Ann", "Ann met Sue so Sue"], "continuation": "smiled.", "gold": 1},
            ("Ann met Sue so Ann", "Ann met Sue so Sue", "smiled."),
            "Ann met Sue so",
        ),
        (
            {"context": "HISTORY: This ship sank", "continuation": "Titanic", "category": "history"},
            ("HISTORY: This ship sank", "Titanic"),
            "This ship sank",
        ),
        ({"question": "How many?", "answer": "2 #### 2"}, ("How many?", "2 #### 2"), "How many?"),
        ({"prompt": "def f():", "test": "assert f()", "canonical_solution": "return 1"}, ("def f():",), "def f():"),
        ({"titles": {"x": ["one", {"y": "two"}]}, "n": 3}, ("one", "two"), ""),  # no known form: every string
        (
            {"question": "Who?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}},
            ("Who?", "a", "b", "A", "B"),
            "Who?",
        ),
    ],
)
def test_every_form_of_record_gives_its_texts_and_its_question(record, texts, question):
    item = item_of("bench", 7, record)
    assert (item.texts, item.question) == (texts, question)
    assert item.id == record.get("id", "bench/7")


def test_worked_solutions_are_texts_only_when_asked_for():
    record = {"prompt": "p", "canonical_solution": "s", "test": "t", "chain_of_thought": "c"}
    assert item_of("b", 1, record).texts == ("p",)
    assert item_of("b", 1, record, solutions=True).texts == ("p", "s", "t", "c")


@pytest.mark.parametrize(
    ("prompt", "bare", "with_passage"),
    [
        ("Q: Was it bitcoin?\nA:", "Was it bitcoin?", None),
        ("Question: At a what?\nChoices:\nA. bank\nB. mall\nAnswer:", "At a what?", None),
        ("What is seen?\nOptions:\n- mess\n- cake", "What is seen?", None),
        ("Find it?\nOptions:\n(A) 24\n(B) 12", "Find it?", None),
        ("Concept: old news. Question: Which is it?\nA. this\n", "Which is it?", "old news. Question: Which is it?"),
        ("Passage: All of it.\nQuestion: is it so?\n", "is it so?", "All of it.\nQuestion: is it so?"),
        ("Roof removal: A man sits. he", "A man sits. he", None),
        ("First, open it: then close it.", "First, open it: then close it.", None),  # no heading: it has a comma
        ("A. one\nB. two", "A. one", None),
        ("Q:\nA:", "Q:\nA:", None),  # nothing is left: the text itself
        ("", "", None),
    ],
)
def test_the_bare_question_is_free_of_what_prompts_add(prompt, bare, with_passage):
    assert bare_question(prompt) == bare
    assert bare_question(prompt, keep_passage=True) == (bare if with_passage is None else with_passage)


def test_files_are_read_in_order_at_any_depth_and_named_without_suffix(tmp_path):
    write(tmp_path, "b.jsonl", [{"question": "one"}, "", {"question": "two"}])
    write(tmp_path, "a/c.jsonl.gz", [{"question": "three", "id": 5}])
    write(tmp_path, "README.md", ["no benchmark"])
    write(tmp_path, "core_tasks.json", ["{}"])
    assert [path.name for path in find_benchmarks(tmp_path)] == ["c.jsonl.gz", "b.jsonl"]
    items = list(read_items(tmp_path))
    assert [(item.benchmark, item.id, item.question) for item in items] == [
        ("a/c", "5", "three"), ("b", "b/1", "one"), ("b", "b/3", "two"),
    ]  # fmt: skip


def test_an_empty_folder_has_no_items(tmp_path):
    assert list(read_items(tmp_path)) == []


@pytest.mark.parametrize("line", ["{broken", "[1]", '"text"', '{"question": "cut'])
def test_a_line_that_is_no_item_is_named(tmp_path, line):
    """Catches an item that is skipped: it would count as searched for and be in the training data."""
    write(tmp_path, "a.jsonl", [{"question": "one"}, line])
    with pytest.raises(StageError, match=r"a\.jsonl:2: (?s:.*)next: correct or remove"):
        list(read_items(tmp_path))


def test_undecodable_bytes_and_broken_archives_are_stage_errors(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(StageError, match=r"a\.jsonl:1"):
        list(read_items(tmp_path))
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"question": "x"}\n' * 1000)[:-9])
    with pytest.raises(StageError, match="cannot be read"):
        list(read_items(tmp_path))


def test_data_in_a_form_that_is_not_read_is_refused(tmp_path):
    """Catches a Parquet benchmark that its owner believes is searched for."""
    write(tmp_path, "a.jsonl", [{"question": "one"}])
    (tmp_path / "mmlu.parquet").write_bytes(b"PAR1")
    with pytest.raises(StageError, match=r"mmlu\.parquet; allowed: \.jsonl"):
        list(read_items(tmp_path))
