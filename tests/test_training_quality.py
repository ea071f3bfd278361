"""The comparison of optimizers: its names, its arithmetic, and that nothing is computed twice."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_quality
from benchmarks.training_quality import (
    Setting,
    append_line,
    optimizer_options,
    read_results,
    run_all,
    table,
    train,
    variant_of,
)
from model.batches import write_rows
from model.muon import MuonOptions
from model.tokenizer import SMALLEST_VOCAB, Tokenizer, byte_tokenizer_json


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of a text that repeats itself, so that a few steps of a tiny model learn something."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "tokenizer.json").write_text(byte_tokenizer_json())
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    ids = np.array([tokenizer.bos_id, *tokenizer.encode("abcdefgh" * 4)])
    info = {
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "pad_id": tokenizer.special_id("<|output_end|>"),
        "tokenizer_sha256": tokenizer.sha256,
    }
    for split, count in (("train", 24), ("val", 4)):
        write_rows(folder, split, np.tile(ids, (count, 1)), None, info)
    return folder


@pytest.fixture
def setting():
    return Setting("any", 1280, 128, 1, SMALLEST_VOCAB, 32, 0.125, 4, False, "any")


def run_of(variant, seed, bpb):
    return {"variant": variant, "seed": seed, "setting": {"tokens": 1}, "val_bpb": bpb}


def test_names_of_variants():
    plain, every = variant_of("plain").fields, variant_of("all").fields
    assert (
        set(plain)
        == set(every)
        == {f.name for f in dataclasses.fields(MuonOptions)}
        - {"lr", "weight_decay", "momentum", "beta2", "compute_dtype"}
    )
    assert variant_of("plain+polar_express+rows+rescale+adaptive+cautious").fields == every
    assert variant_of("all-polar_express-rows-rescale-adaptive-cautious").fields == plain
    assert variant_of("plain-nesterov").fields == {**plain, "nesterov": False}
    assert variant_of("plain").fields == {
        "orthogonalisation": "newton_schulz", "nesterov": True, "normalise_rows": False, "rescale": False,
        "adaptive": False, "cautious": False,
    }  # fmt: skip
    found = variant_of("all-cautious@0.5~0")
    assert (found.lr_scale, found.decay_scale) == (0.5, 0.0)
    assert not found.fields["cautious"] and found.fields["adaptive"]


@pytest.mark.parametrize("name", ["sgd", "plain+fast", "adamw+cautious", "plain@", "plain@x"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="allowed"):
        variant_of(name)


def test_all_variants_share_all_rates_but_those_of_the_matrices(setting):
    """0.75 of the rates quoted for 2^19 tokens: those of the laptop profile."""
    setting = dataclasses.replace(setting, batch_tokens=8192, lr_scale=1.0)
    names = ("torch_muon", "plain@2~0.5", "default", "adamw")
    found = {name: optimizer_options(variant_of(name), setting, 768) for name in names}
    rates = {name: options.matrix_lr for name, options in found.items()}
    assert rates == pytest.approx({"torch_muon": 0.015, "plain@2~0.5": 0.03, "default": 0.015, "adamw": 0.003})
    decays = {name: options.weight_decay for name, options in found.items()}
    assert decays == pytest.approx({"torch_muon": 0.28, "plain@2~0.5": 0.14, "default": 0.28, "adamw": 0.1})
    for options in found.values():
        assert (options.embedding_lr, options.head_lr) == pytest.approx((0.3 * 0.75, 0.008 * 0.75))


def test_a_run_learns_and_repeats(setting, rows):
    first, second = (train(variant_of("default"), setting, 0, rows, 4) for _ in range(2))
    assert first["losses"] == second["losses"] and first["val_bpb"] == second["val_bpb"]
    assert first["steps"] == 10 and first["losses"][-1] < 0.8 * first["losses"][0]
    assert first["final_train_loss"] == pytest.approx(first["losses"][-1], abs=1e-4)  # a tenth of ten steps
    assert train(variant_of("default"), setting, 1, rows, 4)["val_bpb"] != first["val_bpb"]


def test_finished_runs_are_not_repeated(setting, tmp_path, monkeypatch):
    """Killed while writing a line: that run is computed again, the others are not."""
    calls = []

    def pretend(variant, setting, seed, rows, micro_batch_rows):
        calls.append((variant, seed))
        return {"val_bpb": 1.0, "seconds": 0.0}

    monkeypatch.setattr(training_quality, "train", pretend)
    results = tmp_path / "results.jsonl"
    run_all(["plain", "adamw"], [0, 1], setting, tmp_path, results, 4)
    assert len(calls) == 4 and [run["seed"] for run in read_results(results)] == [0, 0, 1, 1]
    results.write_bytes(results.read_bytes()[:-9])
    run_all(["plain", "adamw"], [0, 1], setting, tmp_path, results, 4)
    assert len(calls) == 5 and len(read_results(results)) == 4
    run_all(["plain"], [0], dataclasses.replace(setting, tokens=64), tmp_path, results, 4)
    assert len(calls) == 6  # another setting is another run


def test_lines_survive_a_torn_one(tmp_path):
    path = tmp_path / "results.jsonl"
    append_line(path, json.dumps({"a": 1}))
    path.write_bytes(path.read_bytes() + b'{"a": 2')
    append_line(path, json.dumps({"a": 3}))
    assert read_results(path) == [{"a": 1}, {"a": 3}]


def test_table_pairs_by_seed():
    """Differences -0.1, -0.2, -0.3: mean -0.2, t(0.975, 2) = 4.303, half width 4.303 * 0.1 / sqrt(3) = 0.248."""
    runs = [run_of("control", seed, 2.0 + seed) for seed in range(3)]
    runs += [run_of("better", seed, 2.0 + seed - 0.1 * (seed + 1)) for seed in range(3)]
    runs += [run_of("once", 1, 9.0)]
    better, control, once = table(runs, "control").splitlines()[2:]
    assert better == "| better | 3 | 2.8000 | 0.9000 | -0.1000, -0.2000, -0.3000 | -0.2000 [-0.4484, +0.0484] |"
    assert control == "| control | 3 | 3.0000 | 1.0000 | control | - |"
    assert once == "| once | 1 | 9.0000 | - | +6.0000 | - |"


def test_runs_that_cannot_be_compared_are_refused():
    other = {**run_of("plain", 0, 1.0), "setting": {"tokens": 2}}
    with pytest.raises(ValueError, match="2 settings"):
        table([run_of("plain", 0, 1.0), other], "plain")
    with pytest.raises(ValueError, match="control 'all' has no run"):
        table([run_of("plain", 0, 1.0)], "all")


@pytest.mark.parametrize(("name", "control"), [("20m", "torch_muon"), ("options", "default@2")])
def test_the_recorded_comparisons_are_what_their_runs_say(name, control):
    """The document quotes the table of the runs beside it, and nothing typed."""
    folder = Path(training_quality.__file__).parent
    found = table(read_results(folder / f"training_quality_{name}_202611.jsonl"), control)
    assert found in (folder / "training_quality_cpu_202611.md").read_text(encoding="utf-8")
