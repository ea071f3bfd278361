"""The engine's forward pass against transformers, and decoding against prefill."""

import pytest
import torch

from model.engine.forward import ForwardPass, check_names, expected_shapes
from tests.model.engine import tiny


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1)).tolist()


def reference_logits(ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return tiny.transformers_model()(torch.tensor([ids])).logits[0]


def test_prefill_computes_the_logits_of_transformers(ids):
    """Catches a wrong RoPE sign, norm order, head grouping or softcap."""
    forward = tiny.engine().forward
    cache = forward.new_cache()
    cache.add_rows([len(ids)], len(ids))
    logits = forward.prefill([ids], cache, 0)
    torch.testing.assert_close(logits[0], reference_logits(ids)[-1], atol=1e-5, rtol=0)  # fp32 rounding of 2 layers


def test_decoding_with_the_cache_equals_the_full_forward_pass(ids):
    """Catches a token stored at the wrong position or read with the wrong mask."""
    forward, reference = tiny.engine().forward, reference_logits(ids)
    cache = forward.new_cache()
    cache.add_rows([10], len(ids))
    forward.prefill([ids[:10]], cache, 0)
    for position in range(10, len(ids)):
        logits = forward.decode([ids[position]], cache)
        torch.testing.assert_close(logits[0], reference[position], atol=1e-5, rtol=0)
    assert cache.lengths == [len(ids)]


def test_rows_of_unequal_length_decode_as_if_alone(ids):
    """Catches padding that leaks into shorter rows, in prefill and in decoding."""
    forward, reference = tiny.engine().forward, reference_logits(ids)
    cache, starts = forward.new_cache(), [3, 17, 9]
    cache.add_rows(starts, len(ids))
    prefilled = forward.prefill([ids[:start] for start in starts], cache, 0)
    for row, start in enumerate(starts):
        torch.testing.assert_close(prefilled[row], reference[start - 1], atol=1e-5, rtol=0)
    for step in range(12):
        logits = forward.decode([ids[start + step] for start in starts], cache)
        for row, start in enumerate(starts):
            torch.testing.assert_close(logits[row], reference[start + step], atol=1e-5, rtol=0)


def test_bf16_stays_close_to_fp32(ids):
    """Catches norms or the softcap being computed in bf16: the error then grows several times over."""
    forward = tiny.engine(dtype="bfloat16").forward
    cache = forward.new_cache()
    cache.add_rows([len(ids)], len(ids))
    logits = forward.prefill([ids], cache, 0)[0]
    assert logits.dtype == torch.float32
    # bf16 keeps 8 bits: a relative error of 2^-9 per product, over four products and a sum in each of two layers
    assert (logits - reference_logits(ids)[-1]).abs().max() < 0.35


def test_weight_bytes_are_those_of_every_matrix_but_the_embedding():
    forward = tiny.engine().forward
    parameters = sum(torch.Size(shape).numel() for shape in expected_shapes(tiny.config()).values())
    embedding = tiny.config().vocab_size * tiny.config().d_model
    assert forward.weight_bytes == 4 * (parameters - embedding)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_of_another_architecture_are_refused(change):
    weights = dict(tiny.transformers_model().state_dict())
    if change == "missing":
        del weights["lm_head.weight"]
    elif change == "extra":
        weights["model.layers.0.value_embedding.weight"] = torch.zeros(1)
    else:
        weights["lm_head.weight"] = weights["lm_head.weight"][:-1]
    with pytest.raises(ValueError, match=r"lm_head|value_embedding"):
        check_names(weights, tiny.config())


def test_expected_shapes_are_those_of_transformers():
    actual = {name: tuple(tensor.shape) for name, tensor in tiny.transformers_model().state_dict().items()}
    assert expected_shapes(tiny.config()) == actual


def test_the_engine_computes_what_the_training_model_computes(ids):
    """Catches drift between model/gpt.py and the engine."""
    from model.gpt import GPT

    model = GPT(tiny.config(), compute_dtype="float32")
    model.load_state_dict(tiny.transformers_model().state_dict())
    forward = ForwardPass(model.state_dict(), model.config, torch.float32)
    cache = forward.new_cache()
    cache.add_rows([len(ids)], len(ids))
    with torch.inference_mode():
        trained = model.logits(model(torch.tensor([ids])))[0, -1]
    torch.testing.assert_close(forward.prefill([ids], cache, 0)[0], trained, atol=1e-5, rtol=0)
