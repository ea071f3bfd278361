"""budget: the plan follows from the parameters alone, and what cannot be planned says why."""

import dataclasses
import json
import math

import pytest

from pipeline_math.constants import prior_of
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import find_hardware
from pipeline_math.hardware_table import Hardware
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


def run_stage(folder, **changes):
    """(context, plan, forecast) of a finished stage; keyword arguments `context_*` go to its context."""
    given = {name.removeprefix("context_"): changes.pop(name) for name in list(changes) if name.startswith("context_")}
    context = make_context(folder, Stage.BUDGET, make_params(**changes), **given)
    budget.run(context)
    plan, forecast = (json.loads((context.out / f"{name}.json").read_text()) for name in ("plan", "forecast"))
    return context, plan, forecast


def test_decisions_and_forecast_are_complete(tmp_path):
    context, plan, forecast = run_stage(tmp_path)
    assert (plan["depth"], plan["d_model"], plan["n_heads"], plan["n_kv_heads"]) == (4, 256, 2, 2)
    assert plan["precision"] == "bf16"
    assert plan["train_tokens"] % plan["batch_tokens"] == 0
    assert plan["batch_tokens"] % (plan["micro_batch_rows"] * plan["tokens_per_row"]) == 0
    assert set(forecast["predictions"]) == {str(stage) for stage in Stage} == set(forecast["amounts"])
    for own in forecast["predictions"].values():
        assert own["seconds"]["low"] < own["seconds"]["value"] < own["seconds"]["high"]
    pretrain = forecast["predictions"]["pretrain"]
    assert set(pretrain) >= {"seconds", "step_seconds", "tokens_per_second", "peak_memory_bytes", "bits_per_byte"}
    total = forecast["total"]
    assert total["seconds"] == pytest.approx(sum(p["seconds"]["value"] for p in forecast["predictions"].values()))
    assert context.figures["depth"] == 4
    assert "| pretrain |" in (context.out / "plan.md").read_text()


def test_the_plan_holds_nothing_that_only_a_forecast_changes(tmp_path):
    """What training depends on must not change with prices, amounts of other stages, acceptance or priors."""
    _, plan, _ = run_stage(tmp_path / "one", train_tokens=819200)
    _, same, forecast = run_stage(
        tmp_path / "two",
        train_tokens=819200,
        usd_per_hour=3.0,
        acceptance=[{"metric": "arithmetic", "at_least": 0.5}],
        workload={**WORKLOAD, "sft_tokens": 10**6},
    )
    assert plan == same
    assert forecast["total"]["usd"] > 0


def test_the_same_parameters_give_the_same_bytes(tmp_path):
    """A plan that changed by itself would make every later stage stale."""
    names = ("plan.json", "forecast.json", "acceptance.json", "hardware.json", "plan.md")
    texts = []
    for folder in ("one", "two"):
        context, _, _ = run_stage(tmp_path / folder)
        texts.append([(context.out / name).read_bytes() for name in names])
    assert texts[0] == texts[1]


def test_a_given_batch_and_throughput_are_kept(tmp_path):
    _, plan, forecast = run_stage(tmp_path, batch_tokens=4096, micro_batch_rows=4, mfu=0.1, unique_tokens=1.0e5)
    assert (plan["batch_tokens"], plan["micro_batch_rows"]) == (4096, 4)
    assert forecast["mfu"] == pytest.approx(0.1)
    assert forecast["epochs"] == pytest.approx(plan["train_tokens"] / 1.0e5)


def test_a_shape_spelt_out_is_planned_for(tmp_path):
    _, plan, forecast = run_stage(tmp_path, depth=2, d_model=64, n_heads=2, n_kv_heads=1, train_tokens=8192)
    assert (plan["depth"], plan["d_model"], plan["n_heads"], plan["n_kv_heads"], plan["mlp_width"]) == (
        2,
        64,
        2,
        1,
        256,
    )
    assert forecast["amounts"]["pretrain"]["d_model"] == 64
    assert forecast["predictions"]["pretrain"]["step_seconds"]["value"] < 0.1


def calibration_of(factor):
    """A machine on which a step takes `factor` times what the class says."""
    hardware = find_hardware("cpu-2core")
    before = prior_of(hardware)
    means = tuple(m + math.log(factor) for m in before.log_means)
    return Calibration(before.names, means, before.log_covariance)


def test_what_was_learnt_changes_the_plan_only_when_asked(tmp_path):
    slow = {"context_calibration": lambda hardware: calibration_of(2.0)}
    _, plan, _ = run_stage(tmp_path / "prior", pretrain_share=None)
    _, learnt, _ = run_stage(tmp_path / "slow", pretrain_share=None, **slow)
    _, ignored, _ = run_stage(tmp_path / "ignored", pretrain_share=None, calibrated=False, **slow)
    assert learnt["train_tokens"] < 0.6 * plan["train_tokens"]
    assert ignored == plan


def test_acceptance_is_carried_and_warned_of(tmp_path):
    wanted = [
        {"metric": "bits_per_byte", "at_most": 0.3, "checkpoint": "pretrain"},
        {"metric": "arithmetic", "at_least": 0.9},
    ]
    context, _, forecast = run_stage(tmp_path, acceptance=wanted)
    carried = json.loads((context.out / "acceptance.json").read_text())
    assert [t["metric"] for t in carried["thresholds"]] == ["bits_per_byte", "arithmetic"]
    assert carried["hours"] == LAPTOP["hours"]
    assert any("bits_per_byte at most 0.3" in warning for warning in forecast["warnings"])
    assert not any("arithmetic" in warning for warning in forecast["warnings"])


PROBE = {
    "fingerprint": "2 x Test CPU",
    "kind": "cpu",
}


def test_auto_plans_for_what_the_machine_was_measured_to_do(tmp_path, monkeypatch):
    measured = dataclasses.replace(find_hardware("cpu-2core"), name="auto", peak_flops_bf16=5.0e12)
    monkeypatch.setattr(budget, "hardware_from_probe", lambda values: measured)
    context, plan, _ = run_stage(tmp_path, hardware="auto", context_machine=lambda: PROBE)
    assert plan["hardware"] == "auto"
    device = json.loads((context.out / "hardware.json").read_text())["device"]
    assert Hardware(**device) == measured


def test_a_damaged_probe_is_an_error_with_a_way_out(tmp_path):
    with pytest.raises(StageError, match=r"budget\.hardware=auto"):
        run_stage(tmp_path, hardware="auto", context_machine=lambda: {"kind": "cpu"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": "abacus"}, "unknown hardware; allowed: auto, "),
        ({"hours": 0}, "hours"),
        ({"vocab_size": 4097}, "vocab_size"),
        ({"batch_tokens": 1000}, "use 1024"),
        ({"hours": float("nan")}, "hours"),
        ({"n_heads": 2}, "need budget.d_model"),
        ({"d_model": 100, "n_heads": 3}, "multiple of 6"),
        ({"d_model": 128, "n_heads": 4, "n_kv_heads": 3}, "does not divide 4"),
        ({"acceptance": [{"metric": "arithmatic", "at_least": 0.9}]}, "unknown metric 'arithmatic'"),
        ({"acceptance": [{"metric": "arithmetic"}]}, "neither at_least nor at_most"),
        ({"workload": {**WORKLOAD, "corpus_byte": 3}}, "unknown key 'workload.corpus_byte'"),
    ],
)
def test_bad_parameters_name_the_key(change, message):
    with pytest.raises(StageError, match=message):
        make_params(**change)


def test_a_model_that_fits_no_memory_is_an_error_with_a_way_out(tmp_path):
    context = make_context(tmp_path, Stage.BUDGET, make_params(depth=60, vocab_size=65536, tokens_per_row=8192))
    with pytest.raises(
        StageError, match=r"memory: depth 60 .* short; nearest feasible plan: .*next: change budget\.depth"
    ):
        budget.run(context)
    assert not (context.out / "plan.json").exists()
