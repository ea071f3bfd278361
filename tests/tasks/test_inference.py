"""The inference stage measures what it says it measures."""

import json

import pytest

from tasks import inference
from tasks._errors import StageError
from tasks.stages import Stage
from tests.model.engine import tiny
from tests.stage_context import make_context
from tests.tasks.chat.exported import export_random_model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("inference")
    export_random_model(root / "artifacts/export")
    return root


def test_the_report_covers_every_batch_and_the_cache_is_predicted_exactly(root):
    params = inference.Params(prompt_tokens=16, new_tokens=8, batches=(1, 3), repeats=1)
    context = make_context(root, Stage.INFERENCE, params)
    inference.run(context)
    report = json.loads((context.out / "report.json").read_text())
    assert [row["batch"] for row in report["batches"]] == [1, 3]
    assert all(row["tokens_per_second"] > 0 and row["ttft_seconds"] > 0 for row in report["batches"])
    assert context.measured["kv_bytes_per_token"] == context.predicted["kv_bytes_per_token"][0]
    assert (context.out / "report.md").read_text().count("\n| 3 |") == 1


def test_no_sequence_ends_before_it_was_measured():
    """Catches a rate computed from sequences that ended early at an end token."""
    engine = tiny.scripted([tiny.tokenizer().special_id("<|assistant_end|>")])
    params = inference.Params(prompt_tokens=4, new_tokens=6, batches=(2,), repeats=1)
    inference.measure_batch(engine, 2, params)
    assert [len(ids) for ids in engine.forward.fed] == [2] * 5 * 2  # first token + 5 steps, warm-up + 1 repeat


def test_lengths_beyond_the_context_are_refused_with_numbers(root):
    context = make_context(root, Stage.INFERENCE, inference.Params(prompt_tokens=90, new_tokens=10))
    with pytest.raises(StageError, match="context of 96"):
        inference.run(context)
