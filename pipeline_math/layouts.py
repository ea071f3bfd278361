"""Architecture layouts as plain functions of depth, so that the budget solver knows no architecture.

DEFAULT is what this pipeline trains (exportable as NanoChatForCausalLM). RESEARCH is that of karpathy/nanochat
(July 2026), with value embeddings on every other layer and windowed attention "SSSL"; it exists here to check the
solver against public runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline_math.checks import whole
from pipeline_math.memory_constants import COMPILED_ACTIVATION_BYTES, EAGER_ACTIVATION_BYTES, FULL_LOGIT_BYTES
from pipeline_math.model_flops_vram import (
    ModelShape,
    causal_window,
    scaling_parameters,
    shape_block_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    total_parameters,
    windowed_flops_per_token,
)
from pipeline_math.research_layout import ResearchExtras, pattern_windows
from pipeline_math.static_memory import StaticBytes, default_static
from pipeline_math.training_memory import CHUNK_LOGIT_BYTES, LOSS_CHUNK_TOKENS


@dataclass(frozen=True)
class Layout:
    """The functions the solver needs. All take a ModelShape except `shape`."""

    name: str
    shape: Callable[[int, int, int], ModelShape]
    """(depth, vocab_size, tokens_per_row) -> shape."""
    total_parameters: Callable[[ModelShape], int]
    scaling_parameters: Callable[[ModelShape], int]
    train_flops_per_token: Callable[[ModelShape], float]
    static_bytes: Callable[[ModelShape, int], StaticBytes]
    """(shape, optimizer shards) -> weights, gradients and optimizer state."""
    compiled: bool
    """True: torch.compile and whole logits, two constants. False: no compiler, loss in chunks, memory counted."""
    activation_bytes: float
    """Saved bytes per token, layer and channel, for a solver that wants one number."""
    logit_bytes: float
    """Bytes per logit kept for all tokens of a micro-batch."""
    fixed_bytes: Callable[[ModelShape], float]
    """Upper bound of the bytes of a step that grow neither with the micro-batch nor with the weights."""

    def static_memory_bytes(self, shape: ModelShape, optimizer_shards: int = 1) -> float:
        """`static_bytes`, summed."""
        return self.static_bytes(shape, optimizer_shards).total_bytes


def _one_loss_chunk(shape: ModelShape) -> float:
    return max(LOSS_CHUNK_TOKENS.values()) * shape.vocab_size * CHUNK_LOGIT_BYTES


DEFAULT = Layout(
    name="default",
    shape=shape_of_depth,
    total_parameters=total_parameters,
    scaling_parameters=scaling_parameters,
    train_flops_per_token=shape_train_flops_per_token,
    static_bytes=default_static,
    compiled=False,
    activation_bytes=EAGER_ACTIVATION_BYTES,
    logit_bytes=0.0,
    fixed_bytes=_one_loss_chunk,
)


def sssl_windows(n_layers: int, tokens_per_row: int) -> list[int]:
    """Window of each layer in tokens: three short, one full, repeated; the last layer is always full."""
    return pattern_windows("SSSL", n_layers, tokens_per_row)


def useful_keys(windows: list[int], tokens_per_row: int) -> list[float]:
    """Mean keys a query of each layer really sees: its window less the future."""
    return [causal_window(window, tokens_per_row) for window in windows]


def value_embedding_parameters(shape: ModelShape) -> int:
    """Value-embedding tables on every other layer including the last: ceil(L/2) V Hkv q."""
    return -(-shape.n_layers // 2) * shape.vocab_size * shape.kv_width


def _research_gates(shape: ModelShape) -> int:
    return -(-shape.n_layers // 2) * 12 * shape.n_kv_heads


def research_total_parameters(shape: ModelShape) -> int:
    """Default layout + value embeddings, their gates and 2 L + 26 scalars."""
    extras = value_embedding_parameters(shape) + _research_gates(shape) + 2 * shape.n_layers + 26
    return total_parameters(shape) + extras


def mixed_model_bytes(shape: ModelShape, value_embeddings: int = 0) -> float:
    """Weights of karpathy/nanochat: fp32 matrices (4 B), bf16 tables (2 B)."""
    whole(0, value_embeddings=value_embeddings)
    embedding = shape.vocab_size * shape.d_model
    return 4.0 * scaling_parameters(shape) + 2.0 * (embedding + value_embeddings)


def mixed_optimizer_bytes(shape: ModelShape, value_embeddings: int = 0) -> float:
    """Its optimizer: Muon 4 B per block weight, AdamW 8 B for the head and 4 B for bf16 tables."""
    whole(0, value_embeddings=value_embeddings)
    table = shape.vocab_size * shape.d_model
    return 4.0 * shape_block_parameters(shape) + 8.0 * table + 4.0 * (table + value_embeddings)


def mixed_static(shape: ModelShape, optimizer_shards: int = 1, value_embeddings: int = 0) -> StaticBytes:
    """Weights, gradients of the same types and optimizer of karpathy/nanochat, in bytes."""
    whole(1, optimizer_shards=optimizer_shards)
    weights = mixed_model_bytes(shape, value_embeddings)
    return StaticBytes(weights, weights, mixed_optimizer_bytes(shape, value_embeddings) / optimizer_shards)


def mixed_static_bytes(shape: ModelShape, optimizer_shards: int = 1, value_embeddings: int = 0) -> float:
    """`mixed_static`, summed."""
    return mixed_static(shape, optimizer_shards, value_embeddings).total_bytes


RESEARCH = Layout(
    name="value embeddings + SSSL",
    shape=shape_of_depth,
    total_parameters=research_total_parameters,
    scaling_parameters=scaling_parameters,
    train_flops_per_token=lambda shape: windowed_flops_per_token(
        shape, sssl_windows(shape.n_layers, shape.tokens_per_row)
    ),
    static_bytes=lambda shape, shards: mixed_static(shape, shards, value_embedding_parameters(shape)),
    compiled=True,
    activation_bytes=COMPILED_ACTIVATION_BYTES,
    logit_bytes=FULL_LOGIT_BYTES,
    fixed_bytes=lambda shape: 0.0,
)


def research_layout(extras: ResearchExtras) -> Layout:
    """The layout of our own research models: trained as the default one is, in fp32 with the loss in chunks.

    Activations are counted as those of the default layout; `training_memory` takes the extras' own.
    """
    return Layout(
        name=f"research: {extras}",
        shape=shape_of_depth,
        total_parameters=extras.total_parameters,
        scaling_parameters=extras.scaling_parameters,
        train_flops_per_token=extras.train_flops_per_token,
        static_bytes=extras.static_bytes,
        compiled=False,
        activation_bytes=EAGER_ACTIVATION_BYTES,
        logit_bytes=0.0,
        fixed_bytes=_one_loss_chunk,
    )
