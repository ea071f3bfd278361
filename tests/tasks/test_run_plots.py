"""Pictures of a finished stage: drawn from what the stage left, and nothing where there is nothing."""

import json

from tasks import _run_plots, budget
from tasks._context import EventLog
from tasks._params import read_section, validate
from tasks.stages import Stage
from tests.stage_context import make_context, publish
from tests.test_profiles import ROOT


def planned(root):
    params = validate(budget.Params, read_section(ROOT / "profiles" / "pulse.yaml", Stage.BUDGET), "pulse")
    context = make_context(root, Stage.BUDGET, params)
    budget.run(context)
    publish(context)


def test_the_plan_gives_time_and_memory(tmp_path):
    planned(tmp_path)
    found = _run_plots.draw("budget", tmp_path, tmp_path / "plots")
    assert [path.name for path in found] == ["planned_time.svg", "planned_memory.svg"]
    assert all("<svg" in path.read_text() for path in found)


def test_the_loss_stands_beside_its_forecast(tmp_path):
    planned(tmp_path)
    curve = tmp_path / "artifacts" / "pretrain" / "curve.csv"
    curve.parent.mkdir()
    curve.write_text("step,tokens,loss,lr,val_bpb,val_nats\n1,2048,6.0,0.1,,\n20,40960,5.0,0.1,2.9,5.1\n")
    curves, forecast = _run_plots.draw("pretrain", tmp_path, tmp_path / "plots")
    assert (curves.name, forecast.name) == ("training_curves.svg", "loss_forecast.svg")


def test_every_training_stage_shows_its_curve(tmp_path):
    curve = tmp_path / "artifacts" / "sft" / "curve.csv"
    curve.parent.mkdir(parents=True)
    curve.write_text("step,tokens,loss,lr_matrices,val_bpb\n1,2048,6.0,0.1,\n20,40960,5.0,0.1,2.9\n")
    log = EventLog(tmp_path / "work" / "events.jsonl")
    log.curve([{"step": 20, "loss": 5.0, "mfu": 0.25}, {"step": 40, "loss": 4.0, "mfu": 0.9}])  # 40 was taken back
    (found,) = _run_plots.draw("sft", tmp_path, tmp_path / "work" / "plots")
    assert found.name == "training_curves.svg"
    assert ">sft<" in found.read_text() and ">share of time<" in found.read_text()


def test_nothing_to_show_draws_nothing(tmp_path):
    for stage in ("budget", "pretrain", "corpus"):
        assert _run_plots.draw(stage, tmp_path, tmp_path / "plots") == []
    assert _run_plots.draw_pipeline(tmp_path, tmp_path / "plots") == []
    assert json.dumps(sorted(p.name for p in (tmp_path / "plots").iterdir())) == "[]"
