"""budget: the plan follows from the parameters alone, and what cannot be planned says why."""

import json

import pytest

from tasks import budget
from tasks._errors import StageError
from tasks._params import validate
from tasks.stages import Stage
from tests.stage_context import make_context

WORKLOAD = {
    "corpus_bytes": 1.0e7,
    "kept_share": 0.8,
    "tokenizer_bytes": 1.0e7,
    "evaluations": 2,
    "evaluation_tokens": 65536,
    "midtrain_tokens": 262144,
    "sft_tokens": 524288,
    "chat_batch_tokens": 8192,
    "rl_steps": 2,
    "rl_samples_per_step": 32,
    "rl_new_tokens": 48,
    "checkpoints": 4,
    "benchmark_tokens": 100000,
    "benchmark_decode_steps": 500,
}
LAPTOP = {
    "hours": 0.1667,
    "hardware": "cpu-2core",
    "tokens_per_row": 512,
    "vocab_size": 4096,
    "depth": 4,
    "pretrain_share": 0.34,
    "workload": WORKLOAD,
}


def make_params(**changes):
    return validate(budget.Params, {**LAPTOP, **changes}, "params.yaml: budget")


def test_plan_has_every_field_and_stage(tmp_path):
    context = make_context(tmp_path, Stage.BUDGET, make_params())
    budget.run(context)
    plan = json.loads((context.out / "plan.json").read_text())
    assert (plan["depth"], plan["d_model"], plan["n_heads"], plan["n_kv_heads"]) == (4, 256, 2, 2)
    assert plan["precision"] == "bf16"
    assert plan["train_tokens"] % plan["batch_tokens"] == 0
    assert plan["batch_tokens"] % (plan["micro_batch_rows"] * plan["tokens_per_row"]) == 0
    assert list(plan["predictions"]) == sorted(plan["predictions"])
    assert set(plan["predictions"]) == {str(stage) for stage in Stage}
    assert plan["total"]["val_bpb"]["low"] < plan["total"]["val_bpb"]["value"] < plan["total"]["val_bpb"]["high"]
    assert context.figures["depth"] == 4
    assert "| pretrain |" in (context.out / "plan.md").read_text()


def test_the_same_parameters_give_the_same_bytes(tmp_path):
    """A plan that changed by itself would make every later stage stale."""
    texts = []
    for name in ("one", "two"):
        context = make_context(tmp_path / name, Stage.BUDGET, make_params())
        budget.run(context)
        texts.append((context.out / "plan.json").read_bytes())
    assert texts[0] == texts[1]


def test_a_given_batch_and_throughput_are_kept(tmp_path):
    context = make_context(
        tmp_path, Stage.BUDGET, make_params(batch_tokens=4096, micro_batch_rows=4, mfu=0.1, unique_tokens=1.0e5)
    )
    budget.run(context)
    plan = json.loads((context.out / "plan.json").read_text())
    assert (plan["batch_tokens"], plan["micro_batch_rows"], plan["mfu"]) == (4096, 4, 0.1)
    assert plan["epochs"] == pytest.approx(plan["train_tokens"] / 1.0e5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": "abacus"}, "unknown hardware; allowed: cpu-2core"),
        ({"hours": 0}, "hours"),
        ({"vocab_size": 4097}, "vocab_size"),
        ({"batch_tokens": 1000}, "use 1024"),
        ({"workload": {**WORKLOAD, "corpus_byte": 3}}, "unknown key 'workload.corpus_byte'"),
    ],
)
def test_bad_parameters_name_the_key(change, message):
    with pytest.raises(StageError, match=message):
        make_params(**change)


def test_a_model_that_fits_no_memory_is_an_error_with_a_way_out(tmp_path):
    context = make_context(tmp_path, Stage.BUDGET, make_params(depth=60, vocab_size=65536, tokens_per_row=8192))
    with pytest.raises(StageError, match=r"depth 60 does not fit cpu-2core.*next: change budget\.depth"):
        budget.run(context)
    assert not (context.out / "plan.json").exists()
