import pytest
import torch

from model.attention import QUERY_BLOCK, causal_attention, choose_path


def reference(q, k, v):
    """Plain definition in float64."""
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    scores = q @ k.mT / q.size(-1) ** 0.5
    future = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("path", ["sdpa", "explicit"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 33, QUERY_BLOCK, QUERY_BLOCK + 3])
def test_values_and_gradients_match_the_definition(path, kv_heads, tokens):
    """Catches a wrong head grouping and a wrong block border: row lengths at, below and beyond one query block."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((2, 4, tokens, 8), (2, kv_heads, tokens, 8), (2, kv_heads, tokens, 8))
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator, requires_grad=True) for s in shapes]
    weight = torch.randn(shapes[0], dtype=torch.float64, generator=generator)
    expected, found = reference(*inputs), causal_attention(*inputs, path)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for got, want in zip(torch.autograd.grad((found * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_auto_forms_scores_only_where_that_was_measured_to_be_faster():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_path("auto", torch.bfloat16, cpu, 512) == "explicit"
    assert choose_path("auto", torch.bfloat16, cpu, 513) == "sdpa"
    assert choose_path("auto", torch.float32, cpu, 512) == "sdpa"
    assert choose_path("auto", torch.bfloat16, cuda, 512) == "sdpa"
    assert choose_path("explicit", torch.float32, cuda, 4096) == "explicit"
