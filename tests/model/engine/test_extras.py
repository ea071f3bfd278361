"""Research models in the engine: the training model's function, through the cache and side by side."""

import pytest
import torch

from model.engine.engine import Engine
from model.engine.extras import extra_shapes, visible_keys, windowed_mask
from model.engine.forward import ForwardPass, check_names
from model.engine.sampling import Sampling
from model.gpt import GPT
from model.research import ResearchConfig
from tests.model.engine import tiny

TOKENS = 300
"""More than two short windows of 128: keys really leave the window."""
EVERYTHING, WINDOWS_ONLY = ResearchConfig("SL"), ResearchConfig("SSSL", False, False, 1.0)


def research_model(research: ResearchConfig = EVERYTHING) -> GPT:
    """Random weights everywhere: gates and scalars away from their initial values, so that each must show."""
    model = GPT(tiny.config(n_layers=3, sequence_length=400, research=research), "sdpa", "float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(0, 256, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("research", [EVERYTHING, WINDOWS_ONLY])
def test_decoding_with_the_cache_equals_the_full_forward_pass(ids, research):
    """Catches a window off by one, a value embedding of the wrong token, scalars of the wrong layer."""
    model = research_model(research)
    with torch.inference_mode():
        reference = model.logits(model(torch.tensor([ids])))[0]
        default = GPT(tiny.config(n_layers=3, sequence_length=400), "sdpa", "float32")
        default.load_state_dict({name: t for name, t in model.state_dict().items() if name in default.state_dict()})
        assert (default.logits(default(torch.tensor([ids])))[0] - reference).abs().max() > 0.1  # the extras matter
    forward = ForwardPass(model.state_dict(), model.config, torch.float32)
    cache, start = forward.new_cache(), 110
    cache.add_rows([start], TOKENS)
    torch.testing.assert_close(forward.prefill([ids[:start]], cache, 0)[0], reference[start - 1], atol=1e-4, rtol=0)
    for position in range(start, TOKENS):
        logits = forward.decode([ids[position]], cache)
        torch.testing.assert_close(logits[0], reference[position], atol=1e-4, rtol=0)  # fp32 rounding of 3 layers


def test_rows_of_unequal_length_decode_as_if_alone(ids):
    """Catches windows that start at one place for all rows, in prefill and in decoding."""
    model, starts = research_model(), [3, 200, 131]
    with torch.inference_mode():
        reference = model.logits(model(torch.tensor([ids])))[0]
    forward = ForwardPass(model.state_dict(), model.config, torch.float32)
    cache = forward.new_cache()
    cache.add_rows(starts, TOKENS)
    prefilled = forward.prefill([ids[:start] for start in starts], cache, 0)
    for row, start in enumerate(starts):
        torch.testing.assert_close(prefilled[row], reference[start - 1], atol=1e-4, rtol=0)
    for step in range(30):
        logits = forward.decode([ids[start + step] for start in starts], cache)
        for row, start in enumerate(starts):
            torch.testing.assert_close(logits[row], reference[start + step], atol=1e-4, rtol=0)


def test_a_batch_of_unequal_prompts_equals_one_by_one():
    engine = Engine.from_model(research_model(), tiny.tokenizer(), dtype="float32")
    prompts = [tiny.prompt(text) for text in ("a", "The quick brown fox " * 8, "Zwölf")]
    together = engine.generate_batch(prompts, Sampling(max_tokens=12))
    assert [replies[0].ids for replies in together] == [
        engine.generate(prompt, Sampling(max_tokens=12))[0].ids for prompt in prompts
    ]


def test_weight_bytes_count_gates_and_no_table():
    model = research_model()
    forward = ForwardPass(model.state_dict(), model.config, torch.float32)
    groups, parameters = model.parameter_groups(), dict(model.named_parameters())
    read = [parameters[name].nbytes for kind in ("matrices", "head") for name in groups[kind]]
    assert forward.weight_bytes == sum(read)


@pytest.mark.parametrize("research", [EVERYTHING, WINDOWS_ONLY, ResearchConfig("L", True, False), None])
def test_the_tensors_expected_are_those_of_the_model(research):
    model = GPT(tiny.config(n_layers=3, research=research))
    check_names(model.state_dict(), model.config)
    assert bool(extra_shapes(model.config)) == (research is not None and research is not WINDOWS_ONLY)
    with pytest.raises(ValueError, match="value_embed"):
        check_names(model.state_dict() | {"model.layers.1.self_attn.value_embed.weight": torch.zeros(1)}, model.config)


def test_masks_and_slices_agree_with_the_definition():
    """Key j is visible to query i where i - window < j <= i: one example, spelt out."""
    cpu = torch.device("cpu")
    assert windowed_mask(4, 2, cpu).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert windowed_mask(4, 4, cpu) is None and windowed_mask(4, None, cpu) is None
    assert visible_keys([5, 5], 2, cpu) == (4, None)
    assert visible_keys([5, 5], None, cpu) == (0, None)
    oldest, mask = visible_keys([5, 3], 2, cpu)
    assert oldest == 2 and mask[:, 0, 0].int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
