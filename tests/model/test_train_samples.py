"""Samples leave the run as it was, are the same every time, and are kept through a kill."""

import json
import random

import numpy as np
import pytest
import torch

from model.engine.engine import Engine
from model.engine.sampling import Sampling
from model.gpt import GPT
from model.research import ResearchConfig
from model.row_files import write_rows
from model.train_samples import TrainingSamples, fixed_prompts, sample_texts
from tests.model.engine.tiny import config, prompt, tokenizer


@pytest.fixture(scope="module")
def model():
    made = GPT(config())
    made.init_weights(0)
    with torch.no_grad():  # young weights say one token only
        for parameter in made.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    return made.train()


def state_of_everything(model):
    """What a later step depends on."""
    tensors = [tensor.clone() for tensor in model.state_dict().values()]
    tensors += [parameter.grad.clone() for parameter in model.parameters()] + [torch.get_rng_state()]
    numpy_state = np.random.get_state()
    return tensors, (
        random.getstate(),
        numpy_state[1].tolist(),
        numpy_state[2],
        model.training,
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("training", [True, False])
def test_sampling_changes_nothing_that_training_depends_on(model, training):
    model.train(training)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    tensors, rest = state_of_everything(model)
    assert len(sample_texts(model, tokenizer(), [prompt("a"), prompt("bcd")], max_tokens=8)) == 2
    tensors_after, rest_after = state_of_everything(model)
    assert rest_after == rest
    assert len(tensors) == len(tensors_after) and all(map(torch.equal, tensors, tensors_after))


def test_texts_depend_on_weights_prompts_and_seed_alone(model):
    prompts = [prompt("a"), prompt("bcd")]
    first = sample_texts(model, tokenizer(), prompts, max_tokens=16)
    torch.manual_seed(99)
    assert sample_texts(model, tokenizer(), prompts, max_tokens=16) == first
    assert sample_texts(model, tokenizer(), prompts[1:], max_tokens=16) == first[1:]
    assert sample_texts(model, tokenizer(), prompts, max_tokens=16, seed=1) != first


def test_a_step_after_sampling_is_still_possible(model):
    """Weights the engine reads in place must not have become those of inference mode."""
    sample_texts(model, tokenizer(), [prompt("a")], max_tokens=4)
    model.zero_grad()
    model(torch.tensor([prompt("abc")])).sum().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "layers.0" in name)


def test_greedy_samples_are_those_of_the_engine(model):
    (expected,) = Engine.from_model(model, tokenizer()).generate(prompt("abc"), Sampling(max_tokens=16))
    assert len(expected.text) > 4
    assert sample_texts(model, tokenizer(), [prompt("abc")], max_tokens=16, temperature=0.0) == [expected.text]


def rows_folder(folder, rows):
    ids = tokenizer()
    info = {"vocab_size": ids.vocab_size, "bos_id": ids.bos_id, "pad_id": ids.special_id("<|output_end|>")}
    write_rows(folder, "val", np.array(rows), None, {**info, "tokenizer_sha256": ids.sha256})
    return folder


def test_prompts_are_beginnings_of_rows_and_end_with_a_question(tmp_path):
    ids = tokenizer()
    bos, pad, ask = ids.bos_id, ids.special_id("<|output_end|>"), ids.special_id("<|assistant_start|>")
    long = [bos, *range(65, 84)]
    short = [bos, 70, 71, bos, *range(65, 81)]
    chat = [bos, 72, 73, 74, 75, 76, 77, 78, ask, 80, bos, *[pad] * 9]
    folder = rows_folder(tmp_path, [long, short, chat])
    prompts = fixed_prompts(folder, ids, tokens=6)
    assert prompts == [[bos], long[:6], short[:3], chat[:9]]
    assert fixed_prompts(folder, ids, tokens=6) == prompts


def test_samples_of_repeated_steps_replace_the_former(model, tmp_path):
    """Killed after step 4 and resumed from a state of step 2: step 4 comes again."""
    notes: list[str] = []
    path = tmp_path / "run" / "samples.jsonl"
    samples = TrainingSamples(tokenizer(), [prompt("a"), prompt("b\nc")], path, notes.append, max_tokens=4)
    for step in (2, 4, 6, 4):
        samples(model, step)
    with path.open("a") as file:
        file.write('{"step": 5, "pro')  # a writer of an earlier version was killed here
    samples(model, 8)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 8, 8]
    assert {row["prompt"] for row in rows} == {"<|bos|>a", "<|bos|>b\nc"}
    assert notes[0].startswith("step 2 sample: <|bos|>a -> ") and all("\n" not in note for note in notes)


def test_research_models_speak_too():
    made = GPT(config(research=ResearchConfig(window_pattern="SL")))
    made.init_weights(0)
    prompts = [prompt("a"), prompt("bcd")]
    first = sample_texts(made, tokenizer(), prompts, max_tokens=8)
    assert len(first) == 2 and sample_texts(made, tokenizer(), prompts, max_tokens=8) == first
