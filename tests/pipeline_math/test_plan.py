"""The written plan, its forecast, and the command line that prints it."""

import dataclasses
import json
import math

import pytest

from pipeline_math.__main__ import main
from pipeline_math.constants import prior_of
from pipeline_math.forecast import Calibration
from pipeline_math.hardware import HARDWARE, find_hardware
from pipeline_math.interval import Interval
from pipeline_math.plan import (
    cost_usd,
    energy_kwh,
    kwh_interval,
    make_plan,
    plan_decisions,
    plan_forecast,
    plan_markdown,
    readable,
)
from pipeline_math.plan_text import gain_words, money, quantity
from pipeline_math.scaled_work import ScaledWork
from pipeline_math.stage_seconds import Workload, forecasts, planned_amounts, stage_seconds
from pipeline_math.target_budget import Goal, solve
from tasks.stages import Stage

LAPTOP = Goal(1 / 6, find_hardware("cpu-2core"), tokens_per_row=512, vocab_size=4096, depth=4)
CARD = ["solve", "--hours", "24", "--hardware", "rtx4090"]


def test_every_stage_of_the_pipeline_is_predicted_in_order():
    """The names are spelt twice, because pipeline_math imports nothing: this keeps them equal."""
    assert list(stage_seconds(solve(LAPTOP), Workload())) == [str(stage) for stage in Stage]


@pytest.mark.parametrize("name", HARDWARE)
def test_intervals_are_ordered_and_positive_on_all_hardware(name):
    found = solve(Goal(0.5, find_hardware(name), tokens_per_row=512, vocab_size=4096, depth=6))
    for interval in stage_seconds(found, Workload()).values():
        assert 0 < interval.low < interval.value < interval.high


def test_pretraining_takes_its_share_of_the_hours():
    """Start-up and evaluation come on top of the share, so it is a little more, not less."""
    found = solve(dataclasses.replace(LAPTOP, pretrain_share=0.34))
    seconds = stage_seconds(found, Workload())["pretrain"].value
    assert 204 <= seconds < 204 * 1.25


def test_every_field_of_the_workload_changes_a_prediction():
    """Catches a workload field that no prediction uses."""
    found = solve(LAPTOP)
    base = Workload(tokenizer_bytes=1e6, chat_micro_batch_rows=4, rl_micro_batch_rows=4)
    before = plan_forecast(found, base)["predictions"]
    fields = [field.name for field in dataclasses.fields(base) if field.name != "bytes_per_token"]  # tokens, not time
    assert len(fields) > 15
    for field in fields:
        after = plan_forecast(found, dataclasses.replace(base, **{field: getattr(base, field) / 2}))["predictions"]
        assert after != before, field


def test_skipped_reinforcement_learning_is_cheap():
    found = solve(LAPTOP)
    assert stage_seconds(found, Workload(rl_steps=0))["rl"].value < stage_seconds(found, Workload())["rl"].value


def test_decisions_are_what_other_stages_read_and_nothing_else():
    decisions = plan_decisions(solve(LAPTOP))
    assert set(decisions) == {
        "hardware",
        "devices",
        "precision",
        "depth",
        "d_model",
        "n_heads",
        "n_kv_heads",
        "mlp_width",
        "tokens_per_row",
        "vocab_size",
        "train_tokens",
        "train_steps",
        "batch_tokens",
        "micro_batch_rows",
    }
    assert decisions["train_tokens"] == decisions["train_steps"] * decisions["batch_tokens"]


def test_expectations_change_no_decision():
    """A plan of the same decisions must not make later stages stale because a price or a calibration changed."""
    found = solve(dataclasses.replace(LAPTOP, train_tokens=2_000_000))
    prior = prior_of(LAPTOP.hardware)
    slower = dataclasses.replace(prior, log_means=tuple(mean + 0.5 for mean in prior.log_means))
    plan = make_plan(found, Workload())
    other = make_plan(found, Workload(rl_steps=9), slower, usd_per_hour=7.0)
    assert other["decisions"] == plan["decisions"]
    assert other["forecast"]["total"]["seconds"] > 1.5 * plan["forecast"]["total"]["seconds"]


def test_a_slower_machine_gets_a_smaller_plan():
    prior = prior_of(LAPTOP.hardware)
    slower = dataclasses.replace(prior, log_means=tuple(mean + math.log(2) for mean in prior.log_means))
    assert solve(LAPTOP, calibration=slower).train_tokens < 0.6 * solve(LAPTOP).train_tokens


def test_forecast_has_intervals_for_every_stage_and_the_totals():
    forecast = json.loads(json.dumps(plan_forecast(solve(LAPTOP), Workload())))
    assert list(forecast["predictions"]) == [str(stage) for stage in Stage]
    intervals = [quantity for own in forecast["predictions"].values() for quantity in own.values()]
    intervals += [forecast["total"][name] for name in ("seconds_interval", "kwh_interval", "val_bpb")]
    for interval in intervals:
        assert 0 < interval["low"] < interval["value"] < interval["high"]
    parts = sum(own["seconds"]["value"] for own in forecast["predictions"].values())
    assert forecast["total"]["seconds"] == pytest.approx(parts)
    assert set(forecast["predictions"]["pretrain"]) >= {"seconds", "step_seconds", "peak_memory_bytes", "bits_per_byte"}
    assert set(forecast["amounts"]) == set(forecast["predictions"])


def test_one_loss_is_told_everywhere():
    """The loss law of large runs stood in place of that of small ones, and no calibration ever reached the total."""
    found = solve(LAPTOP)
    amounts = planned_amounts(found, Workload())
    small = forecasts(amounts, LAPTOP.hardware)["pretrain"]["bits_per_byte"]
    assert abs(math.log(small.value / found.bits_per_byte.value)) > 0.01  # else nothing below tells them apart
    forecast = plan_forecast(found, Workload())
    assert forecast["predictions"]["pretrain"]["bits_per_byte"] == small.as_dict()
    assert forecast["total"]["val_bpb"] == small.as_dict()
    between = math.sqrt(small.value * found.bits_per_byte.value)
    warned = [text for text in plan_forecast(found, Workload(), None, None, between)["warnings"] if "wanted" in text]
    assert any("bits/byte expected" in text for text in warned) == (small.value > between)
    worse = plan_forecast(found, Workload(), None, None, 0.99 * small.value)["warnings"]
    assert any(text.startswith(f"{small.value:.3f} bits/byte expected") for text in worse)


def test_a_large_run_is_forecast_by_the_loss_law():
    found = solve(Goal(24, find_hardware("rtx4090")))
    forecast = plan_forecast(found, Workload())
    assert forecast["predictions"]["pretrain"]["bits_per_byte"] == found.bits_per_byte.as_dict()
    assert forecast["total"]["val_bpb"] == found.bits_per_byte.as_dict()


def test_memory_parts_add_up():
    memory = plan_forecast(solve(LAPTOP), Workload())["memory"]
    parts = [
        value for name, value in memory.items() if name not in ("total_bytes", "usable_bytes", "device_bytes", "fits")
    ]
    assert sum(parts) == pytest.approx(memory["total_bytes"])
    assert memory["total_bytes"] <= memory["usable_bytes"] < memory["device_bytes"]


def test_energy_of_a_published_run():
    """d12: 35.1 min at 700 W are 0.41 kWh, 0.49 at a PUE of 1.2, and 1.75 USD at 3 USD/h."""
    assert energy_kwh(35.1 * 60, 1, 700, 1.0, 1.0) == pytest.approx(0.41, abs=0.005)
    assert energy_kwh(35.1 * 60, 1, 700, 1.0, 1.2) == pytest.approx(0.49, abs=0.005)
    assert cost_usd(35.1 * 60, 1, 3.0) == pytest.approx(1.75, abs=0.01)
    with pytest.raises(ValueError, match=r"utilisation=1\.5"):
        energy_kwh(1, 1, 700, 1.5, 1.0)
    with pytest.raises(ValueError, match="seconds=-1"):
        cost_usd(-1, 1, 3.0)


def test_energy_is_less_certain_than_time():
    seconds = Interval(3600.0, 3000.0, 4320.0)
    kwh = kwh_interval(seconds, 2, find_hardware("h100"))
    assert kwh.value == pytest.approx(2 * 0.7 * 0.9 * 1.1)
    assert kwh.high / kwh.low > seconds.high / seconds.low


def test_plan_warns_of_what_will_disappoint():
    goal = Goal(0.02, find_hardware("cpu-2core"), tokens_per_row=512, vocab_size=4096, depth=12, unique_tokens=1e3)
    tight = solve(dataclasses.replace(goal, pretrain_share=1.0))
    warnings = " ".join(make_plan(tight, Workload(), target_val_bpb=0.5)["forecast"]["warnings"])
    for word in ("more than the 0.02 h", "undertrained", "passes over the text", "0.5 wanted"):
        assert word in warnings
    work = ScaledWork().of
    roomy = solve(Goal(24, find_hardware("rtx4090")), work=work)
    assert make_plan(roomy, work(roomy))["forecast"]["warnings"] == []


def test_price_can_be_overridden():
    found = solve(LAPTOP)
    total = plan_forecast(found, Workload(), usd_per_hour=3.6)["total"]
    assert total["usd"] == pytest.approx(total["seconds"] * 0.001)
    assert total["usd_interval"]["high"] == pytest.approx(total["seconds_interval"]["high"] * 0.001)
    assert plan_forecast(found, Workload())["total"]["usd"] == 0


def test_markdown_names_every_stage():
    text = plan_markdown(make_plan(solve(LAPTOP), Workload()))
    assert all(f"| {stage} |" in text for stage in Stage)
    assert "bits/byte" in text


def test_numbers_are_readable():
    assert [readable(s) for s in (5, 119, 120, 7199, 7200)] == ["5 s", "119 s", "2.0 min", "120.0 min", "2.0 h"]
    assert [quantity(n) for n in (7, 1500, 2.5e6, 3e9, 4e12)] == ["7", "1.50 k", "2.50 M", "3.00 B", "4.00 T"]
    assert quantity(-1500, "+") == "-1.50 k"
    assert [money(n) for n in (0.5, 12345.678, 2.5e6)] == ["0.50", "12,345.68", "2.50 M"]
    nothing = {"depth_change": 0, "train_tokens_change": 0}
    assert gain_words(nothing) == "buys nothing"


@pytest.mark.parametrize(
    "more", [[], ["--vram", "6", "--unique-tokens", "1e7", "--ttft-ms", "5", "--layout", "research"]]
)
def test_solve_prints_the_whole_plan_in_80_columns(capsys, more):
    assert main([*CARD, *more]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    for label in ("depth", "tokens", "ratio", "batch", "micro-batch", "precision", "memory", "dollars", "energy"):
        assert f"\n{label} " in text, label
    for label in ("bits per byte", "binding", "one more hour", "one more GiB", *Stage):
        assert f"\n{label} " in text, label


def test_solve_prints_json_with_all_parts(capsys):
    assert main(["solve", "--hours", "3", "--hardware", "h100", "--devices", "8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["decisions"]["devices"] == 8
    assert {"binding", "more"} == set(plan["limits"])
    assert plan["forecast"]["total"]["seconds"] <= 3 * 3600 * (1 + 1e-9)


def test_pretrain_only_gives_all_hours_to_pretraining(capsys):
    """Run 1 of the nanochat leaderboard again, from the command line: d24 and about 8.9 B tokens."""
    options = ["--hours", "3", "--hardware", "h100", "--devices", "8", "--mfu", "0.5", "--layout", "research"]
    assert main(["solve", *options, "--pretrain-only", "--json"]) == 0
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert decisions["depth"] == 24
    assert decisions["train_tokens"] / 1e9 == pytest.approx(8.9, abs=0.1)


def test_little_raw_text_limits_the_distinct_tokens(capsys):
    assert main([*CARD, "--corpus-bytes", "1e9", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["forecast"]["unique_tokens"] == pytest.approx(1e9 * 0.7 / 4.7)
    assert plan["forecast"]["epochs"] > 4
    assert [gain["change"] for gain in plan["limits"]["binding"]] == ["text"]


def test_a_calibration_and_a_probe_are_read(capsys, tmp_path):
    prior = prior_of(find_hardware("rtx4090"))
    means = tuple(
        mean + 1.0 if name == "whole_model" else mean for name, mean in zip(prior.names, prior.log_means, strict=True)
    )
    slow = dataclasses.replace(prior, log_means=means)
    assert isinstance(slow, Calibration)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"a machine": {"rtx4090": slow.as_json()}}))
    assert main([*CARD, "--json"]) == 0
    fast = json.loads(capsys.readouterr().out)["decisions"]["train_tokens"]
    assert main([*CARD, "--json", "--calibration", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["decisions"]["train_tokens"] < 0.8 * fast
    probe = tmp_path / "hardware.json"
    probe.write_text("{}")
    assert main(["solve", "--hours", "1", "--hardware", "auto", "--probe", str(probe)]) == 2
    assert "probe" in capsys.readouterr().err


def test_a_calibration_of_another_version_is_refused(capsys, tmp_path):
    """It ended in a KeyError for the first constant that was added since."""
    prior = prior_of(find_hardware("rtx4090"))
    old = dataclasses.replace(prior, names=tuple(name.replace("shards_once", "former") for name in prior.names))
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"a machine": {"rtx4090": old.as_json()}}))
    assert main([*CARD, "--calibration", str(path)]) == 2
    assert "other constants for rtx4090; next: make calibrate" in capsys.readouterr().err


def test_hardware_is_listed(capsys):
    assert main(["hardware"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in HARDWARE)
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hardware", "abacus"], "allowed: cpu-2core"),
        (["--hours", "many"], "argument --hours: invalid float value: 'many'; next:"),
        (["--hours", "nan"], "hours=nan"),
        (["--hours", "-1"], "hours=-1"),
        (["--hours", "0"], "nearest feasible plan: with"),
        (["--vram", "2.4e10"], "is this a number of bytes?"),
        (["--vram", "1"], "GiB short"),
        (["--unique-tokens", "0"], "no data"),
        (["--corpus-bytes", "0"], "no data"),
        (["--corpus-bytes", "-1"], "raw_bytes=-1"),
        (["--sft-share", "2"], "sft_share=2"),
        (["--price", "-1"], "usd_per_device_hour=-1"),
        (["--target-bpb", "nan"], "target_val_bpb=nan"),
        (["--ttft-ms", "nan"], "ttft_seconds=nan"),
        (["--mfu", "65"], "mfu=65"),
        (["--pretrain-only", "--pretrain-share", "0.5"], "not allowed with"),
        (["--calibration", "missing.json"], "--calibration missing.json"),
        (["--colour", "red"], "unrecognized arguments"),
    ],
)
def test_command_line_explains_what_is_impossible(capsys, options, message):
    assert main([*CARD, *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
