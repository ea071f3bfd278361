"""Architecture layouts as plain functions of depth, so that the budget solver knows no architecture.

DEFAULT is what this pipeline trains (exportable as NanoChatForCausalLM). RESEARCH is that of karpathy/nanochat
(July 2026), with value embeddings on every other layer and windowed attention "SSSL"; it exists here to check the
solver against public runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline_math.model_flops_vram import (
    CHUNK_LOGIT_BYTES,
    COMPILED_ACTIVATION_BYTES,
    EAGER_ACTIVATION_BYTES,
    FULL_LOGIT_BYTES,
    ModelShape,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    static_memory_bytes,
    total_parameters,
)

LOSS_CHUNK_TOKENS = 8192
"""Upper bound of the tokens whose logits exist at once in our chunked loss."""


@dataclass(frozen=True)
class Layout:
    """The functions the solver needs. All take a ModelShape except `shape`."""

    name: str
    shape: Callable[[int, int, int], ModelShape]
    """(depth, vocab_size, tokens_per_row) -> shape."""
    total_parameters: Callable[[ModelShape], int]
    scaling_parameters: Callable[[ModelShape], int]
    train_flops_per_token: Callable[[ModelShape], float]
    static_memory_bytes: Callable[[ModelShape, int], float]
    """(shape, optimizer shards) -> bytes of weights, gradients and optimizer state."""
    activation_bytes: float
    """Saved bytes per token, layer and channel."""
    logit_bytes: float
    """Bytes per logit kept for all tokens of a micro-batch."""
    fixed_bytes: Callable[[ModelShape], float]
    """Bytes of a step that do not grow with the micro-batch, beside the static part."""


def _one_loss_chunk(shape: ModelShape) -> float:
    return LOSS_CHUNK_TOKENS * shape.vocab_size * CHUNK_LOGIT_BYTES


DEFAULT = Layout(
    "default",
    shape_of_depth,
    total_parameters,
    scaling_parameters,
    shape_train_flops_per_token,
    static_memory_bytes,
    EAGER_ACTIVATION_BYTES,
    0.0,
    _one_loss_chunk,
)


def short_window_tokens(tokens_per_row: int) -> int:
    """S of the layout "SSSL": a quarter of the row, rounded up to a multiple of 128 tokens (karpathy/nanochat)."""
    return -(-(tokens_per_row // 4) // 128) * 128


def sssl_windows(n_layers: int, tokens_per_row: int) -> list[int]:
    """Window of each layer in tokens: three short, one full, repeated; the last layer is always full."""
    short = short_window_tokens(tokens_per_row)
    windows = [tokens_per_row if layer % 4 == 3 else short for layer in range(n_layers)]
    windows[-1] = tokens_per_row
    return windows


def windowed_flops_per_token(shape: ModelShape, windows: list[int]) -> float:
    """F = 6 N + 12 H q sum_l min(w_l, T), FLOP/token (PaLM appendix B, arXiv 2204.02311)."""
    attended = sum(min(window, shape.tokens_per_row) for window in windows)
    return 6.0 * scaling_parameters(shape) + 12.0 * shape.d_model * attended


def value_embedding_parameters(shape: ModelShape) -> int:
    """Value-embedding tables on every other layer including the last: ceil(L/2) V Hkv q."""
    return -(-shape.n_layers // 2) * shape.vocab_size * shape.n_kv_heads * shape.head_dim


def _research_gates(shape: ModelShape) -> int:
    return -(-shape.n_layers // 2) * 12 * shape.n_kv_heads


def research_total_parameters(shape: ModelShape) -> int:
    """Default layout + value embeddings, their gates and 2 L + 26 scalars."""
    extras = value_embedding_parameters(shape) + _research_gates(shape) + 2 * shape.n_layers + 26
    return total_parameters(shape) + extras


def mixed_model_bytes(shape: ModelShape, value_embeddings: int = 0) -> float:
    """Weights of karpathy/nanochat: fp32 matrices (4 B), bf16 tables (2 B)."""
    embedding = shape.vocab_size * shape.d_model
    return 4.0 * scaling_parameters(shape) + 2.0 * (embedding + value_embeddings)


def mixed_optimizer_bytes(shape: ModelShape, value_embeddings: int = 0) -> float:
    """Its optimizer: Muon 4 B per block weight, AdamW 8 B for the head and 4 B for bf16 tables."""
    table = shape.vocab_size * shape.d_model
    blocks = scaling_parameters(shape) - table
    return 4.0 * blocks + 8.0 * table + 4.0 * (table + value_embeddings)


def mixed_static_bytes(shape: ModelShape, optimizer_shards: int = 1, value_embeddings: int = 0) -> float:
    """Weights, gradients of the same types and optimizer of karpathy/nanochat, in bytes."""
    weights = mixed_model_bytes(shape, value_embeddings)
    return 2 * weights + mixed_optimizer_bytes(shape, value_embeddings) / optimizer_shards


RESEARCH = Layout(
    "value embeddings + SSSL",
    shape_of_depth,
    research_total_parameters,
    scaling_parameters,
    lambda shape: windowed_flops_per_token(shape, sssl_windows(shape.n_layers, shape.tokens_per_row)),
    lambda shape, shards: mixed_static_bytes(shape, shards, value_embedding_parameters(shape)),
    COMPILED_ACTIVATION_BYTES,
    FULL_LOGIT_BYTES,
    lambda shape: 0.0,
)
