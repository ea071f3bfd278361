import dataclasses
import json
import os

import pytest
import torch

from model import compilation, loss
from model.compilation import ComputeChoice, apply, prepare_compute
from model.gpt import GPT
from model.gpt_config import GPTConfig
from model.loss import softcap_cross_entropy

CPU = torch.device("cpu")
ROWS, TOKENS = 2, 16


@pytest.fixture
def model():
    built = GPT(GPTConfig(64, 2, 32, 2, 1, 64, TOKENS), "explicit", "float32")
    built.init_weights(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "o_proj" in name or "fc2" in name:  # they start at zero, which hides the layers
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return built


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile replaced by something that counts; a real compilation takes half a minute."""

    class Compiler:
        compiled = calls = 0
        error: Exception | None = None

        def __call__(self, function, dynamic):
            assert dynamic is False
            self.compiled += 1

            def run(*arguments):
                if self.error:
                    raise self.error
                self.calls += 1
                return function(*arguments)

            return run

    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    monkeypatch.setattr(compilation, "missing_compiler", lambda device: None)
    return found


@pytest.fixture
def seconds(monkeypatch):
    """What a layer takes: (as defined, compiled)."""
    values = {"plain": 1.0, "compiled": 0.5}

    def layer_seconds(model, rows, tokens):
        return values["compiled" if compilation._compiled_shape(model.model.layers[0]) else "plain"]

    monkeypatch.setattr(compilation, "layer_seconds", layer_seconds)
    return values


def prepare(model, steps_left=1000, request="auto", **more):
    notes: list[str] = []
    choice = prepare_compute(model, CPU, rows=ROWS, steps_left=steps_left, request=request, note=notes.append, **more)
    return choice, notes


def test_a_long_run_is_compiled_after_a_word_and_a_short_one_is_not(model, compiler, seconds):
    """Saving: 1 s a layer x 2 layers x the expected gain; at the step where that is 1.5 times the compilation."""
    steps = 1.5 * compilation.EXPECTED_COMPILE_SECONDS / (2 * compilation.EXPECTED_GAIN["cpu"])
    choice, notes = prepare(model, steps_left=int(steps) - 1)
    assert not choice.compiled and compiler.compiled == 0 and notes == []
    assert "layers not compiled: expected to save" in choice.reasons[-1]
    choice, notes = prepare(model, steps_left=int(steps / 4) + 1, micro_batches=4)
    assert choice.compiled and compiler.compiled == 1
    assert (
        notes[0].startswith("compiling the layers, about 60 s") and "500.0 ms compiled, 1000.0 ms without" in notes[1]
    )


def test_a_run_by_the_clock_compiles_by_its_seconds(model, compiler, seconds):
    """Its steps are only a first guess, far too many or too few: seconds x expected gain against 1.5 compilations."""
    border = 1.5 * compilation.EXPECTED_COMPILE_SECONDS / compilation.EXPECTED_GAIN["cpu"]
    choice, _ = prepare(model, steps_left=10**6, seconds_left=border - 1)
    assert not choice.compiled and compiler.compiled == 0
    choice, _ = prepare(model, steps_left=1, seconds_left=border + 1)
    assert choice.compiled


def test_what_is_not_faster_when_measured_is_dropped_and_remembered(model, compiler, seconds, tmp_path):
    seconds["compiled"] = 0.99
    choice, _ = prepare(model, cache_folder=tmp_path)
    assert not choice.compiled and "990.0 ms compiled" in choice.reasons[-1]
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)
    assert compiler.compiled == 1
    prepare(model, cache_folder=tmp_path)
    assert compiler.compiled == 1  # a gain of 1 % does not pay within these steps
    assert prepare(model, request="on")[0].compiled


def test_only_training_steps_of_the_prepared_shape_run_compiled_code(model, compiler, seconds):
    prepare(model)
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    before = compiler.calls
    model(ids)
    assert compiler.calls == before + 2  # both layers
    model(ids[:1])
    model(ids[:, :-1])
    with torch.no_grad():
        model(ids)
    assert compiler.calls == before + 2


def test_a_stored_choice_is_applied_again_and_taken_back(model, compiler, seconds):
    choice, _ = prepare(model)
    stored = ComputeChoice.from_values(json.loads(json.dumps(dataclasses.asdict(choice))))
    assert stored == choice
    apply(stored, model)
    assert compiler.compiled == 1  # it was in place already
    apply(dataclasses.replace(stored, compiled=False, attention="sdpa"), model)
    assert [compilation._compiled_shape(layer) for layer in model.model.layers] == [None, None]
    assert [layer.self_attn.path for layer in model.model.layers] == ["sdpa", "sdpa"]
    notes: list[str] = []
    apply(stored, model, note=notes.append)
    assert compiler.compiled == 2 and "compiling the layers as before" in notes[0]
    with pytest.raises(ValueError, match="allowed: exactly"):
        ComputeChoice.from_values({"compiled": True})


def test_without_a_compiler_layers_stay_as_they_are_with_a_note(model, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    choice, notes = prepare(model, request="on")
    assert not choice.compiled and "no C++ compiler (g++ or clang++) is installed" in notes[0]
    notes.clear()
    apply(dataclasses.replace(choice, compiled=True), model, note=notes.append)
    assert "differ by rounding" in notes[0]
    assert prepare(model, request="off")[1] == []


def test_a_failing_compiler_is_named_and_does_not_stop_training(model, compiler, seconds):
    compiler.error = RuntimeError("CppCompileError: no Python.h\nmore")
    choice, notes = prepare(model, request="on")
    assert not choice.compiled and "compiling failed (CppCompileError: no Python.h)" in notes[1]
    assert all("forward" not in layer.__dict__ for layer in model.model.layers)


def test_preparing_leaves_weights_gradients_and_random_numbers_alone(model, compiler):
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    choice, _ = prepare(model, request="on")
    assert choice.compiled
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == weights.keys()
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_attention_becomes_the_measured_path(compiler, monkeypatch):
    monkeypatch.setattr(compilation, "fastest_attention", lambda **shape: ("blocked", f"for {shape['tokens']}"))
    built = GPT(GPTConfig(64, 2, 32, 2, 1, 64, TOKENS), compute_dtype="float32")
    choice, _ = prepare(built, request="off", tokens=8)
    assert choice.attention == "blocked" and choice.reasons[0] == "for 8"
    assert [layer.self_attn.path for layer in built.model.layers] == ["blocked", "blocked"]


def test_all_ranks_take_the_choice_of_the_first(model, compiler, seconds, monkeypatch):
    """This rank would compile; the first one found another path and measured no gain."""
    own = []

    def exchange(choice, device):
        own.append(choice["compiled"])
        return [choice | {"compiled": False, "attention": "blocked"}, choice]

    monkeypatch.setattr(compilation, "exchange_json", exchange)
    choice, _ = prepare(model)
    assert own == [False, True]
    assert (choice.compiled, choice.attention) == (False, "blocked")
    assert [layer.self_attn.path for layer in model.model.layers] == ["blocked", "blocked"]
    assert compilation._compiled_shape(model.model.layers[0]) is None


def test_a_sharded_model_is_not_compiled(model, compiler, seconds, monkeypatch):
    monkeypatch.setattr(compilation, "is_sharded", lambda asked: asked is model)
    choice, notes = prepare(model, request="on")
    assert not choice.compiled and compiler.compiled == 0 and "the model is sharded" in notes[0]


def loss_and_gradients(model, ids):
    model.zero_grad()
    value = softcap_cross_entropy(
        model(ids).flatten(0, 1), model.lm_head.weight, ids.flatten(), torch.ones(ids.numel()), 15.0, torch.float32
    )
    value.backward()
    return value.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.skipif("RUN_SLOW_TESTS" not in os.environ, reason="compiles for half a minute; set RUN_SLOW_TESTS=1")
def test_compiled_layers_agree_with_those_defined_here_to_rounding(model, tmp_path):
    ids = torch.randint(64, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    wanted, gradients = loss_and_gradients(model, ids)
    choice, _ = prepare(model, request="on", cache_folder=tmp_path)
    assert choice.compiled
    found, found_gradients = loss_and_gradients(model, ids)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_the_formula_for_a_compiler_equals_the_passes_of_the_plain_loss():
    """On a GPU one replaces the other; here the formula runs as it is written."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 30, dtype=torch.float64, generator=generator)
    targets, weights = torch.randint(30, (5,), generator=generator), torch.linspace(-1, 1, 5)
    one, other = z.clone(), z.clone()
    scratch = (torch.empty_like(z), torch.empty_like(z))
    wanted = loss._loss_of_block(one, targets, weights, 15.0, scratch, True)
    found = loss._loss_by_formula(other, targets, weights, 15.0, True)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(other, one)
    assert not torch.equal(other, z)
