"""Acceptance thresholds as they come from YAML and as they travel through acceptance.json."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline_math.acceptance import METRICS, Threshold
from tasks._acceptance import AcceptanceThreshold, read_thresholds
from tasks._errors import StageError
from tasks._params import StageParams, read_yaml, validate

PROFILES = sorted((Path(__file__).parents[2] / "profiles").glob("*.yaml"))


class Params(StageParams):
    acceptance: tuple[AcceptanceThreshold, ...] = ()


def from_yaml(text):
    return validate(Params, yaml.safe_load(text), "params.yaml: budget")


def test_what_yaml_declares_arrives_at_the_gate_unchanged(tmp_path):
    params = from_yaml(
        "acceptance: [{metric: arithmetic, at_least: 0.9}, {metric: ttft_seconds, at_most: 1.0e-2, checkpoint: sft}]"
    )
    path = tmp_path / "acceptance.json"
    path.write_text(json.dumps({"thresholds": [one.model_dump() for one in params.acceptance], "hours": 0.1}))
    assert read_thresholds(path) == [
        Threshold("arithmetic", at_least=0.9),
        Threshold("ttft_seconds", at_most=0.01, checkpoint="sft"),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{metric: accuracy, at_least: 0.9}", "unknown metric 'accuracy'; allowed: bits_per_byte"),
        ("{metric: arithmetic, at_least: .nan}", "finite"),
        ("{metric: arithmetic, at_least: .inf}", "finite"),
        ("{metric: arithmetic, at_least: 0.9, at_most: 0.1}", "nothing passes"),
        ("{metric: arithmetic, at_least: 0.9, checkpoint: best}", "unknown checkpoint 'best'"),
        ("{metric: arithmetic}", "neither at_least nor at_most"),
        ("{benchmark: arithmetic, at_least: 0.9}", "unknown key 'acceptance.0.benchmark'"),
        ("{metric: arithmetic, at_least: much}", "found 'much'"),
    ],
)
def test_a_bad_entry_is_refused_with_its_place_and_reason(entry, message):
    with pytest.raises(StageError, match=message) as refused:
        from_yaml(f"acceptance: [{entry}]")
    assert "acceptance.0" in str(refused.value)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
def test_profiles_ask_only_for_what_their_evaluation_measures(profile):
    """Catches a threshold that fails as not measured at the end of a run of a day."""
    content = read_yaml(profile)
    evaluation, selected = content["evaluation"], content["gate"]["selected"]
    items = {
        "arithmetic": "arithmetic_items",
        "tool_call": "arithmetic_items",
        "multiple_choice": "multiple_choice_items",
    }
    for entry in content["budget"]["acceptance"]:
        threshold = AcceptanceThreshold(**entry).threshold()
        assert threshold.where(selected) in (*evaluation["checkpoints"], "run")
        assert evaluation[items.get(threshold.metric, "bits_per_byte_rows")] > 0


def test_the_profile_of_make_run_asks_for_every_kind_of_metric():
    """Quality of base and chat model, stability, latency and wall clock."""
    laptop = next(path for path in PROFILES if path.stem == "laptop")
    asked = {entry["metric"] for entry in read_yaml(laptop)["budget"]["acceptance"]}
    assert {METRICS[name].kind for name in asked} == {"quality", "stability", "latency", "run"}
    assert {"bits_per_byte", "arithmetic", "ends_properly"} <= asked


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"thresholds": [{"metric": "x", "at_most": 1}]}', '{"thresholds": 3}']
)
def test_a_file_without_thresholds_names_itself_and_the_way_out(tmp_path, content):
    path = tmp_path / "acceptance.json"
    path.write_text(content)
    with pytest.raises(StageError, match=r"acceptance\.json holds no thresholds.*dvc repro --force budget"):
        read_thresholds(path)


def test_an_empty_list_asks_for_nothing(tmp_path):
    path = tmp_path / "acceptance.json"
    path.write_text('{"thresholds": []}')
    assert read_thresholds(path) == []
