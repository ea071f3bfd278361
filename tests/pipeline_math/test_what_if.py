"""The difference of two plans."""

import json

import pytest

from pipeline_math.__main__ import main
from pipeline_math.hardware import find_hardware
from pipeline_math.plan import make_plan
from pipeline_math.scaled_work import ScaledWork
from pipeline_math.target_budget import Goal, solve
from pipeline_math.what_if import differences, what_if_text
from tasks.stages import Stage

CARD = "--hours 24 --hardware rtx4090"


@pytest.fixture(scope="module")
def plans():
    def planned(**change):
        found = solve(Goal(24, find_hardware("rtx4090"), **change), work=ScaledWork().of)
        return make_plan(found, ScaledWork().of(found))

    return planned(), planned(vocab_size=65536, devices=2)


def test_every_decision_stage_and_cost_has_a_line(plans):
    lines = differences(*plans)
    names = [line.name for line in lines]
    assert set(plans[0]["decisions"]) | {str(stage) for stage in Stage} | {"all", "dollars", "kWh"} <= set(names)
    assert {"bits per byte", "total", "weights", "logits", "mfu"} <= set(names)
    assert len(names) == len(set(names))


def test_differences_and_ratios_are_those_of_the_plans(plans):
    first, second = plans
    lines = {line.name: line for line in differences(first, second)}
    tokens = [plan["decisions"]["train_tokens"] for plan in plans]
    assert lines["train_tokens"].change == tokens[1] - tokens[0]
    assert lines["train_tokens"].ratio == tokens[1] / tokens[0]
    pretrain = [plan["forecast"]["predictions"]["pretrain"]["seconds"]["value"] for plan in plans]
    assert lines["pretrain"].change == pytest.approx(pretrain[1] - pretrain[0])
    assert lines["devices"].ratio == 2.0
    assert lines["dollars"].ratio == pytest.approx(2.0, rel=0.01)
    assert lines["hardware"].change is None


def test_a_plan_does_not_differ_from_itself(plans):
    lines = differences(plans[0], plans[0])
    assert len(lines) > 40
    assert all(line.change in (0, None) for line in lines)
    assert "differs" not in what_if_text(plans[0], plans[0])


def test_swapping_the_plans_turns_the_signs(plans):
    there, back = differences(*plans), differences(*reversed(plans))
    changes = [(a.change, b.change) for a, b in zip(there, back, strict=True) if a.change is not None]
    assert any(change for change, _ in changes)
    assert all(a == -b for a, b in changes)


def test_command_line_compares_options_and_files(capsys, tmp_path):
    assert main(["solve", *CARD.split(), "--json"]) == 0
    path = tmp_path / "plan.json"
    path.write_text(capsys.readouterr().out)
    assert main(["what-if", CARD, str(path)]) == 0
    same = capsys.readouterr().out
    assert "differs" not in same
    assert main(["what-if", str(path), "--hours 8 --hardware h100"]) == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "differs" in text
    pretrain = next(line for line in text.splitlines() if line.split()[:1] == ["pretrain"])
    assert "-" in pretrain.split()[5]


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("nowhere.json", "'nowhere.json' is no file"),
        ("--hours 24", "--hardware"),
        ("--hours 0 --hardware rtx4090", "nearest feasible plan"),
        ("--hours 24 --hardware 'rtx4090", "No closing quotation"),
    ],
)
def test_what_cannot_be_compared_is_refused(capsys, first, message):
    assert main(["what-if", first, CARD]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [("[]", "a list"), ("{}", "solve --json"), ("not json", "Expecting")])
def test_files_that_are_no_plans_are_refused(capsys, tmp_path, content, message):
    path = tmp_path / "plan.json"
    path.write_text(content)
    assert main(["what-if", str(path), CARD]) == 2
    assert message in capsys.readouterr().err


def test_json_of_solve_is_the_plan(capsys):
    assert main(["solve", *CARD.split(), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"decisions", "forecast", "limits"}
