import pytest
import torch

from model import attention
from model.attention import QUERY_BLOCK, SMALL_QUERY_BLOCK, causal_attention, choose_path

CPU_PATHS = ("sdpa", "explicit", "blocked")


def reference(q, k, v, window=None, documents=None):
    """Plain definition: one mask over all pairs, written out query by query."""
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    scores = q @ k.mT / q.size(-1) ** 0.5
    rows, tokens = q.size(0), q.size(2)
    visible = torch.zeros(rows, 1, tokens, tokens, dtype=torch.bool)
    for i in range(tokens):
        visible[:, :, i, max(0, i + 1 - (window or tokens)) : i + 1] = True
    if documents is not None:
        visible &= (documents[:, :, None] == documents[:, None, :])[:, None]
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


def assert_values_and_gradients_match(path, kv_heads, tokens, window=None, documents=None, dtype=torch.float64):
    generator = torch.Generator().manual_seed(tokens)
    shapes = ((2, 4, tokens, 8), (2, kv_heads, tokens, 8), (2, kv_heads, tokens, 8))
    inputs = [torch.randn(s, dtype=dtype, generator=generator, requires_grad=True) for s in shapes]
    weight = torch.randn(shapes[0], dtype=dtype, generator=generator)
    expected = reference(*inputs, window, documents)
    found = causal_attention(*inputs, path, window, documents)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for got, want in zip(torch.autograd.grad((found * weight).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("path", CPU_PATHS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 33, SMALL_QUERY_BLOCK + 1, QUERY_BLOCK, QUERY_BLOCK + 3])
def test_values_and_gradients_match_the_definition(path, kv_heads, tokens):
    """Catches a wrong head grouping and a wrong block border: row lengths at, below and beyond one query block."""
    assert_values_and_gradients_match(path, kv_heads, tokens)


@pytest.mark.parametrize("path", CPU_PATHS)
@pytest.mark.parametrize("window", [1, 5, 40])
def test_a_window_hides_what_lies_further_back(path, window, monkeypatch):
    """Small blocks, so that a window ends within a block, in the one before, and several blocks back."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    monkeypatch.setattr(attention, "SMALL_QUERY_BLOCK", 7)
    assert_values_and_gradients_match(path, 2, 67, window)


@pytest.mark.parametrize("path", CPU_PATHS)
@pytest.mark.parametrize("window", [None, 9])
def test_documents_of_a_row_do_not_see_each_other(path, window, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    monkeypatch.setattr(attention, "SMALL_QUERY_BLOCK", 7)
    documents = (torch.arange(41) // torch.tensor([[10], [17]])).long()
    assert documents.unique(return_counts=True)[0].numel() > 2
    assert_values_and_gradients_match(path, 2, 41, window, documents)


@pytest.mark.parametrize("path", CPU_PATHS)
def test_float32_is_as_close_as_float32_can_be(path):
    assert_values_and_gradients_match(path, 2, 33, dtype=torch.float32)


@pytest.mark.parametrize("window", [50, 51, None])
def test_a_window_of_a_whole_row_or_more_is_none(window):
    """It must take the path without a mask: the same bits."""
    q, k, v = torch.randn(3, 1, 2, 50, 8, generator=torch.Generator().manual_seed(0))
    for path in CPU_PATHS:
        assert torch.equal(causal_attention(q, k, v, path, window), causal_attention(q, k, v, path))


def test_auto_without_a_measurement_forms_scores_for_short_bfloat16_rows_on_a_cpu(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(attention, "_has_flash3", lambda device: False)
    assert choose_path("auto", torch.bfloat16, cpu, 512) == "explicit"
    assert choose_path("auto", torch.bfloat16, cpu, 513) == "sdpa"
    assert choose_path("auto", torch.float32, cpu, 512) == "sdpa"
    assert choose_path("auto", torch.bfloat16, cuda, 512) == "sdpa"
    assert choose_path("auto", torch.bfloat16, cuda, 512, masked=True) == "flex"
    assert choose_path("explicit", torch.float32, cuda, 4096) == "explicit"
    monkeypatch.setattr(attention, "_has_flash3", lambda device: True)
    assert choose_path("auto", torch.bfloat16, cuda, 512) == "flash3"


def test_what_cannot_be_computed_is_refused_with_what_can():
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(ValueError, match=r"flex.*cpu.*sdpa, explicit, blocked"):
        causal_attention(x, x, x, "flex")
    with pytest.raises(ValueError, match=r"'fast'.*allowed are auto, sdpa"):
        causal_attention(x, x, x, "fast")
    with pytest.raises(ValueError, match=r"window=0.*at least 1"):
        causal_attention(x, x, x, "sdpa", 0)
