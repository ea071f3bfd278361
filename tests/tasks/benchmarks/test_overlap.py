"""Benchmark items in texts: what is there is found, what is not there is not, and common boilerplate is no evidence."""

import random
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks._errors import StageError
from tasks._words import hash_words
from tasks.benchmarks import overlap, overlap_report, postings
from tasks.benchmarks.items import BenchmarkItem, read_items
from tasks.benchmarks.overlap import NgramIndex, enough, find, find_questions, merge, shared_by_document

DATA = Path(__file__).parents[4] / "shared" / "data"

ITEM_WORDS = ["apple", "bring", "été", "Δelta", "42", "under_score", "中文", "I", "zebra", "x1"]
OTHER_WORDS = ["over", "the", "hill", "7", "ßtrasse", "und", "мир"]
GAPS = [" ", "\n", ", ", " - ", "...\n\n", "\t", '" (']
CASES = [str.lower, str.upper, str.capitalize, str]


def item(text, benchmark="bench", number=0, question=""):
    return BenchmarkItem(benchmark, f"{benchmark}/{number}", (text,), question)


def build(items, **options):
    return NgramIndex.build(items, **options)


def found_in(index, *texts):
    """(text, item id, n-grams shared) of every hit."""
    hits = find(index, hash_words(texts))
    return [(d, index.ids[i], n) for d, i, n in zip(*(column.tolist() for column in hits), strict=True)]


words_of_an_item = st.lists(st.sampled_from(ITEM_WORDS), min_size=13, max_size=40)
words_around = st.lists(st.sampled_from(OTHER_WORDS), max_size=40)


@st.composite
def spelled(draw, words):
    """The words in other case, punctuation and line breaks."""
    return "".join(draw(st.sampled_from(CASES))(word) + draw(st.sampled_from(GAPS)) for word in words)


@settings(max_examples=150, deadline=None)
@given(st.data(), words_of_an_item, words_around, words_around)
def test_a_planted_piece_of_an_item_is_always_found(data, words, before, after):
    """Recall: any 13 consecutive words, wherever they stand, however they are written."""
    index = build([item(" ".join(words)), item(" ".join(OTHER_WORDS * 3), "other")])
    first = data.draw(st.integers(0, len(words) - 13))
    text = data.draw(spelled(before)) + data.draw(spelled(words[first : first + 13])) + data.draw(spelled(after))
    hits = found_in(index, "nothing here", text)
    assert (1, "bench/0") in {(document, found) for document, found, _ in hits}
    assert all(document == 1 for document, _, _ in hits)


@settings(max_examples=100, deadline=None)
@given(st.data(), words_of_an_item, words_around, words_around)
def test_twelve_words_of_an_item_are_not_found(data, words, before, after):
    """Precision: one word less than an n-gram, with words of no item on both sides."""
    index = build([item(" ".join(words))])
    first = data.draw(st.integers(0, len(words) - 12))
    text = data.draw(spelled([*before, "over"])) + data.draw(spelled(words[first : first + 12]))
    assert found_in(index, text + "the " + data.draw(spelled(after))) == []


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(8, 12), words_around, words_around)
def test_a_short_question_is_found_whole_and_only_whole(data, count, before, after):
    words = data.draw(st.permutations([*ITEM_WORDS, "who", "why", "what"]))[:count]
    question = " ".join(["question", *words[1:]])
    index = build([item(question, question=question), item("why not", "b", question="why not")])
    shown = data.draw(spelled(question.split()))
    around = (data.draw(spelled([*before, "over"])), "the " + data.draw(spelled(after)))
    assert found_in(index, around[0] + shown + around[1]) == [(0, "bench/0", 1)]
    assert found_in(index, around[0] + " ".join(question.split()[:-1]) + " " + around[1]) == []
    assert found_in(index, around[0] + " ".join(question.split()[1:]) + " " + around[1]) == []


def test_nothing_is_found_across_the_border_of_two_texts():
    """The end of one text and the beginning of the next: neither an n-gram nor a short question lies there."""
    long, short = numbered("a", 13), numbered("ask", 12)
    index = build([item(long, number=0), item("x", number=1, question=short)])
    for text in (long, short):
        words = text.split()
        assert len(found_in(index, text)) == 1
        for cut in range(1, len(words)):
            assert found_in(index, "over " + " ".join(words[:cut]), " ".join(words[cut:])) == []


def reference(items, texts, n, max_items):
    """Shared n-grams by sets of tuples."""

    def grams(text):
        words = re.findall(r"\w+", text.lower())
        return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}

    sharing = defaultdict(set)
    for number, own in enumerate(items):
        for text in own.texts:
            for gram in grams(text):
                sharing[own.benchmark, gram].add(number)
    result = []
    for document, text in enumerate(texts):
        seen = grams(text)
        for own in items:
            mine = {g for t in own.texts for g in grams(t) if len(sharing[own.benchmark, g]) <= max_items}
            if mine & seen:
                result.append((document, own.id, len(mine & seen)))
    return result


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 3))
def test_hits_equal_those_of_plain_sets(seed, max_items):
    """Few different words, so that n-grams repeat within and between items, benchmarks and texts."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices("ab", k=draw.randrange(40))) for _ in range(12)]
    items = [
        BenchmarkItem(f"b{k % 2}", f"{k % 2}-{k:02}", tuple(draw.sample(texts, draw.randint(1, 2))), "")
        for k in range(8)
    ]
    items.sort()
    documents = [*draw.sample(texts, 5), " ".join(draw.choices("abc", k=60)), ""]
    index = build(draw.sample(items, len(items)), n=9, max_items=max_items)
    assert found_in(index, *documents) == reference(items, documents, 9, max_items)


def test_hits_do_not_depend_on_how_texts_are_grouped(monkeypatch):
    draw = random.Random(1)
    texts = [" ".join(draw.choices("ab", k=draw.randrange(60))) for _ in range(40)]
    index = build([item(text, number=k) for k, text in enumerate(texts[:10])], n=9)
    together = find(index, hash_words(texts))
    alone = merge((find(index, hash_words([text])), number) for number, text in enumerate(texts))
    assert len(together.item) > 50
    for a, b in zip(together, alone, strict=True):
        assert a.dtype == b.dtype == np.int32
        assert a.tolist() == b.tolist()
    monkeypatch.setattr(postings, "PART_WORDS", 1)
    assert [column.tolist() for column in find(index, hash_words(texts))] == [column.tolist() for column in together]


def test_an_ngram_never_runs_across_two_fields():
    first, second = " ".join(f"a{k}" for k in range(12)), " ".join(f"b{k}" for k in range(12))
    index = build([BenchmarkItem("b", "b/0", (first, second), "")])
    assert found_in(index, f"{first} {second}") == []
    assert index.keys_of_item.tolist() == [0]


def numbered(kind, count=15):
    return " ".join(f"{kind}{k}" for k in range(count))


def test_boilerplate_is_ignored_and_counted_but_hides_no_leak():
    """More than 20 items share the instruction; the passage of 20 items, and what is each item's own, stay evidence."""
    instruction, passage = numbered("say", 14), numbered("once", 15)
    items = [item(f"{instruction} {numbered(f'own{k}n')}", "a", k) for k in range(21)]
    items += [item(f"{passage} {numbered(f'ask{k}n')}", "b", k) for k in range(20)]
    index = build(items)
    assert dict(zip(index.names, index.ignored, strict=True)) == {"a": 2, "b": 0}
    assert found_in(index, f"{instruction} and that is all") == []
    assert len(found_in(index, passage)) == 20
    for k in range(21):
        assert [found for _, found, _ in found_in(index, numbered(f"own{k}n"))] == [f"a/{k}"]
        assert (0, f"a/{k}") in {(d, i) for d, i, _ in found_in(index, f"{instruction} {numbered(f'own{k}n')}")}


def test_boilerplate_of_one_benchmark_stays_evidence_for_another():
    text = numbered("w", 13)
    index = build([*(item(text, "a", k) for k in range(21)), item(text, "b", 0)])
    assert found_in(index, text) == [(0, "b/0", 1)]


def test_in_a_large_benchmark_more_items_may_share_a_passage():
    """The boundary: one per cent of 2,500 items is 25."""
    for sharing, found in ((25, 25), (26, 0)):
        items = [item(numbered("passage") if k < sharing else f"filler {k}", number=k) for k in range(2500)]
        assert len(found_in(build(items), numbered("passage"))) == found


def test_items_too_short_to_search_for_are_counted_and_compared_whole():
    items = [
        item("What is it?", number=0, question="What is the answer?"),
        item("x", number=1, question="17 * 94 ="),  # no letters: words would equal those of 17 + 94
        item("x", number=2, question=""),
        item("y", number=3, question="Q1 two three four five six seven eight nine"),
    ]
    index = build(items)
    assert (index.keys_of_item > 0).tolist() == [False, False, False, True]
    asked = [
        "what IS the\nanswer",
        "Q: What is the answer?\nA. this\nB. that",
        "17 94",
        "",
        "the answer is what",
        "so what is the answer",
    ]
    hits = find_questions(index, asked)
    assert list(zip(hits.document.tolist(), hits.item.tolist(), strict=True)) == [(0, 0), (1, 0)]
    assert found_in(index, *asked) == []


def test_a_question_behind_another_passage_is_not_the_whole_text():
    index = build([item("x", question="What happens next in it?")])
    texts = ["Question: What happens next in it?", "Passage: Another one.\nQuestion: What happens next in it?"]
    assert find_questions(index, texts).document.tolist() == [0]


def test_enough_is_the_threshold_or_all_that_an_item_has():
    index = build([item(numbered("a", 20), number=0), item(numbered("b", 14), number=1)])
    texts = [
        numbered("a", 15),
        numbered("a", 13),
        numbered("b", 14),
        "none",
        f"{numbered('a', 13)} {numbered('b', 13)}",
    ]
    hits = find(index, hash_words(texts))
    assert shared_by_document(enough(index, hits, 1), 5).tolist() == [3, 1, 2, 0, 1]
    assert shared_by_document(enough(index, hits, 3), 5).tolist() == [3, 0, 2, 0, 0]


def test_a_saved_index_is_the_same_index_in_any_order_of_items(tmp_path):
    draw = random.Random(2)
    items = [item(" ".join(draw.choices("abc", k=30)), f"b{k % 3}", k, numbered(f"q{k}n", 9)) for k in range(30)]
    index = build(items)
    index.save(tmp_path / "index")
    loaded = NgramIndex.load(tmp_path / "index")
    assert isinstance(loaded.ngrams.keys, np.memmap)
    assert build(reversed(items)).digest == index.digest == loaded.digest
    assert build(items[1:]).digest != index.digest
    texts = [own.texts[0] for own in items]
    assert found_in(loaded, *texts) == found_in(index, *texts) != []


def test_an_index_of_another_version_is_refused(tmp_path):
    build([item(numbered("a"))]).save(tmp_path)
    header = tmp_path / "index.json"
    header.write_text(header.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(StageError, match=r"format and kernel \[99, (?s:.*)remove the folder"):
        NgramIndex.load(tmp_path)


def test_no_items_and_no_texts_give_no_hits():
    assert found_in(build([]), numbered("a")) == []
    assert found_in(build([item("")]), "", numbered("a")) == []
    assert found_in(build([item(numbered("a"))])) == []
    assert merge([]).item.tolist() == []
    with pytest.raises(ValueError, match="n=8"):
        build([], n=8)


def test_the_report_counts_per_benchmark_and_shows_the_words():
    items = [item(numbered("a", 20), "a", 0), item("short", "a", 1), item("x", "b", 0, question=numbered("ask", 9))]
    index = build([*items, item(numbered("z"), "c", 0)])
    texts = ["nothing", f"So: {numbered('A', 14)}!", f"{numbered('a', 14)} {numbered('Ask', 9)}?"]
    hits = find(index, hash_words(texts))
    report = overlap_report.report_of(index, hits, lambda number: (f"doc{number}", texts[number]))
    sample = {"item": "a/0", "document": "doc1", "words": numbered("a", 13), "ngrams_shared": 2}
    assert report == {
        "a": {"items": 2, "searchable": 1, "ignored_ngrams": 0, "items_found": 1, "documents": 2, "samples": [sample]},
        "b": {
            "items": 1, "searchable": 1, "ignored_ngrams": 0, "items_found": 1, "documents": 1,
            "samples": [{"item": "b/0", "document": "doc2", "words": numbered("ask", 9), "ngrams_shared": 1}],
        },
        "c": {"items": 1, "searchable": 1, "ignored_ngrams": 0, "items_found": 0, "documents": 0, "samples": []},
    }  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the development data are not here")
def test_the_development_corpus_contains_the_items_it_is_known_to_contain():
    """The audit of delivered documents against delivered rows: 15 documents."""
    import polars as pl

    index = build(read_items(DATA / "eval"))
    table = pl.read_parquet(sorted((DATA / "corpus").glob("*.parquet")), columns=["id", "text"])
    hits = find(index, hash_words(table["text"]))
    assert (shared_by_document(hits, len(table)) > 0).sum() == 15
    report = overlap_report.report_of(index, hits, lambda number: table.row(number))
    assert {name: (own["items_found"], own["documents"]) for name, own in report.items() if own["items_found"]} == {
        "math": (1, 7), "agi_eval_lsat_rc": (5, 1), "lambada_openai": (3, 3), "jeopardy_all": (2, 2),
        "humaneval": (1, 2),
    }  # fmt: skip
    assert report["math"]["samples"][0]["words"] == "1 2 3 4 5 6 7 8 9 10 11 12 13"
    assert sum(own["items"] for own in report.values()) == 76_731
    assert sum(own["searchable"] for own in report.values()) > 60_000
    assert overlap.MAX_ITEMS == 20
