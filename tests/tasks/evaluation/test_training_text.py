"""The search of the training documents finds what plain Python finds, however the documents are spread over files."""

import random
import sys
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks._params import StageParams
from tasks._runtime import Runtime
from tasks.benchmarks.arithmetic import expressions_in
from tasks.benchmarks.normal import normal, normal_expression
from tasks.evaluation import training_text
from tasks.evaluation.training_text import normal_series, occurring, search_training_text, written_expressions
from tasks.stages import Stage
from tests.stage_context import make_context

# Everything an expression can hold, what may stand beside it, digits and white space of other scripts, and case traps.
CHARACTERS = "0123456789" * 3 + "+-*/x()  " * 3 + "\n\t\r\x0b\x1c\x1f\x85\xa0\u2003\u3000.,=abX×÷٣４ΣςİßǅÉ"
TEXTS = st.lists(st.text(st.sampled_from(CHARACTERS), max_size=80), max_size=8)


def written_plainly(documents):
    """The definition: Python's regex over every document."""
    return {normal_expression(found) for text in documents for found in expressions_in(text)}


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_expressions_equal_those_of_a_plain_search(texts):
    documents = [normal(text) for text in texts]
    assert written_expressions(documents) == written_plainly(documents)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_normal_texts_equal_those_of_python(texts):
    assert normal_series(pl.Series(texts, dtype=pl.String)).to_list() == [normal(text) for text in texts]


def test_every_assigned_character_has_the_same_normal_form():
    """Characters that this Python does not know may differ; they are in no older text."""
    known = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    texts = [f"a{character}b {character}" for character in known]
    found = normal_series(pl.Series(texts)).to_list()
    different = [text for text, other in zip(texts, found, strict=True) if normal(text) != other]
    assert len(texts) > 100_000
    assert different == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("ab ", min_size=1, max_size=6), max_size=8), st.lists(st.text("ab ", max_size=30), max_size=5))
def test_descriptions_that_occur_are_those_python_finds(descriptions, documents):
    """Also descriptions that overlap, or lie in one another."""
    expected = {description for description in descriptions if any(description in text for text in documents)}
    assert occurring(descriptions, documents) == expected


def corpus(root, files):
    """Random documents over `files` Parquet files; every fourth is held out. -> (train texts, held-out texts)."""
    draw = random.Random(3)
    pool = ["12 + 3*4", "(7-2)/5", "9 x 9", "the\nquick  brown", "Fox, jumps.", "2020-10-11", "no", "٣+٤"]
    texts = [" ".join(draw.choices(pool, k=draw.randrange(12))) for _ in range(120)]
    splits = ["val" if number % 4 == 0 else "train" for number in range(len(texts))]
    texts[4] = texts[5].upper()  # a held-out document that equals a training document
    table = pl.DataFrame({"id": [f"d{number}" for number in range(len(texts))], "text": texts})
    (root / "documents").mkdir(parents=True)
    for number in range(files):
        table[number::files].write_parquet(root / "documents" / f"{number:05}.parquet")
    pl.DataFrame({"id": table["id"], "split": splits}).write_parquet(root / "splits.parquet")
    return [[text for text, split in zip(texts, splits, strict=True) if split == own] for own in ("train", "val")]


@pytest.mark.parametrize(
    ("files", "workers", "batch_bytes"), [(1, 1, 1 << 23), (1, 1, 1), (7, 1, 100), (3, 2, 1 << 23)]
)
def test_the_search_equals_one_over_all_texts_at_once(tmp_path, monkeypatch, files, workers, batch_bytes):
    """The former way: all training documents in one list, and in one text."""
    monkeypatch.setattr(training_text, "BATCH_BYTES", batch_bytes)
    monkeypatch.setattr(training_text, "ROWS_PER_READ", 5)
    monkeypatch.setattr(training_text, "INLINE_BYTES", 0)
    train, held_out = corpus(tmp_path, files)
    runtime = Runtime(device="cpu", threads=1, workers=workers)
    ctx = make_context(tmp_path, Stage.EVALUATION, StageParams(), runtime=runtime)
    descriptions = ["quick brown fox", "brown the", "jumps. no", "not in any of them", "9 x 9 9 x 9 9 x 9"]
    found = search_training_text(
        ctx, tmp_path / "documents", tmp_path / "splits.parquet", descriptions, [normal(text) for text in held_out]
    )
    normal_texts = [normal(text) for text in train]
    assert found.characters == sum(map(len, normal_texts))
    assert found.expressions == written_plainly(normal_texts)
    assert found.descriptions == {wanted for wanted in descriptions if wanted in "\n".join(normal_texts)}
    assert found.documents == set(normal_texts) & {normal(text) for text in held_out}
    assert normal(held_out[1]) in found.documents
    assert "not in any of them" not in found.descriptions != frozenset()


def test_no_documents_hold_nothing(tmp_path):
    ctx = make_context(tmp_path, Stage.EVALUATION, StageParams())
    found = search_training_text(ctx, tmp_path / "none", tmp_path / "splits.parquet", ["a description"], ["text"])
    assert (found.characters, found.expressions, found.descriptions, found.documents) == (0, set(), set(), set())
