"""Step 4, model configuration: parameters, FLOPs per token and file bytes. All exact, no estimate is in this file.

Symbols: L layers, d width, H query heads, Hkv key/value heads, q = d/H head dimension, V padded vocabulary,
T tokens per row, N weights that multiply the token stream. The default layout is NanoChatForCausalLM of transformers.
Memory, which is an estimate, is in `training_memory`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_math.checks import checked, not_negative, positive, whole

FLOPS_CONVENTION = "6 N + 12 L d T; N = blocks + head; attention in full, not halved for causality"
"""Said beside every FLOPs and MFU figure, because the same run reads 10 % apart under other conventions."""
FLOPS_CONVENTIONS = {
    "full": FLOPS_CONVENTION,
    "causal": "6 N + 12 L d (T + 1) / 2: only the half of the attention a causal model needs",
    "kaplan": "6 N with N = blocks only: no head, no attention (arXiv 2001.08361, section 2.1, recalled)",
    "chinchilla": "arXiv 2203.15556, appendix F (recalled): embedding and head products, softmax; backward = 2 forward",
    "chinchilla without embedding": "the same without the 2 V d of the embedding, which is a look-up",
}
"""Names and formulas of `flops_by_convention`."""
QUERY_BLOCK, SMALL_QUERY_BLOCK = 256, 128
"""Queries our explicit and our blocked attention handle at once (model.attention has the same names)."""
RECOMPUTED = ("none", "selective", "full")
"""What the backward pass computes again: nothing, the attention products, all layers (arXiv 2205.05198)."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide every cost of the default layout (no biases, no norm weights, head not tied).

    ValueError for a number that is not whole and positive, and for heads that do not divide.
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    mlp_width: int
    vocab_size: int
    tokens_per_row: int

    def __post_init__(self) -> None:
        whole(1, **vars(self))
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model}: allowed are multiples of n_heads={self.n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads}: allowed are divisors of n_heads={self.n_heads}")

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_width(self) -> int:
        """Channels of all keys, and of all values: Hkv q."""
        return self.n_kv_heads * self.head_dim


def width_of_depth(depth: int, head_dim: int = 128) -> int:
    """Width d in channels: 64 per layer, rounded up to whole heads (karpathy/nanochat)."""
    whole(1, depth=depth, head_dim=head_dim)
    return -(-64 * depth // head_dim) * head_dim


def shape_of_depth(depth: int, vocab_size: int, tokens_per_row: int) -> ModelShape:
    """The default layout at a depth: head dimension 128, as many key/value heads as query heads, MLP 4 d wide."""
    width = width_of_depth(depth)
    heads = width // 128
    return ModelShape(depth, width, heads, heads, 4 * width, vocab_size, tokens_per_row)


@checked
def block_parameters(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, mlp_width: int) -> int:
    """Weights of the attention and MLP matrices of all layers: L (2 d^2 + 2 d Hkv q + 2 d mlp)."""
    positive(n_heads=n_heads)
    kv_width = n_kv_heads * (d_model // n_heads)
    return n_layers * (2 * d_model**2 + 2 * d_model * kv_width + 2 * d_model * mlp_width)


def shape_block_parameters(shape: ModelShape) -> int:
    """`block_parameters` of a shape: the weights Muon updates."""
    return block_parameters(shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width)


def scaling_parameters(shape: ModelShape) -> int:
    """Weights that multiply the token stream: blocks + head. The count behind every "ratio" here.

    Kaplan counts blocks only, Chinchilla all parameters; a ratio means nothing without its convention.
    """
    return shape_block_parameters(shape) + shape.vocab_size * shape.d_model


def total_parameters(shape: ModelShape) -> int:
    """All parameters: blocks, head and embedding table, two tables because they are not tied."""
    return shape_block_parameters(shape) + 2 * shape.vocab_size * shape.d_model


@checked
def train_flops_per_token(
    n_layers: int,
    d_model: int,
    n_heads: int,
    n_kv_heads: int,
    mlp_width: int,
    vocab_size: int,
    tokens_per_row: int,
) -> float:
    """Training FLOPs per token, F = 6 N + 12 L d T, in FLOP/token (PaLM appendix B, arXiv 2204.02311).

    N counts the weights of all matrix products including the head: 2 FLOPs forward and 4 backward each.
    Attention is counted in full, not halved for causality, as MFU is usually quoted. The embedding look-up costs
    none. Left out: norms, softmax, activation functions, rotary embedding, recomputation, the optimizer.
    """
    matmul_weights = block_parameters(n_layers, d_model, n_heads, n_kv_heads, mlp_width) + vocab_size * d_model
    return 6.0 * matmul_weights + 12.0 * n_layers * d_model * tokens_per_row


def forward_flops_per_token(
    n_layers: int,
    d_model: int,
    n_heads: int,
    n_kv_heads: int,
    mlp_width: int,
    vocab_size: int,
    tokens_per_row: int,
) -> float:
    """Forward FLOPs per token, 2 N + 4 L d T: a third of `train_flops_per_token`."""
    return train_flops_per_token(n_layers, d_model, n_heads, n_kv_heads, mlp_width, vocab_size, tokens_per_row) / 3.0


def shape_train_flops_per_token(shape: ModelShape) -> float:
    """`train_flops_per_token` of a shape."""
    return windowed_flops_per_token(shape, [shape.tokens_per_row] * shape.n_layers)


def windowed_flops_per_token(shape: ModelShape, attended_keys: Sequence[float]) -> float:
    """F = 6 N + 12 d sum_l w_l, FLOP/token, where a query of layer l meets w_l keys (at most T).

    Full attention: w_l = T. Causal half: `causal_window`. Blocks that skip the future: `blocked_keys`.
    """
    if len(attended_keys) != shape.n_layers:
        raise ValueError(f"attended_keys: {len(attended_keys)} given; allowed is one per layer, {shape.n_layers}")
    not_negative(**{f"attended_keys[{layer}]": keys for layer, keys in enumerate(attended_keys)})
    attended = sum(min(keys, shape.tokens_per_row) for keys in attended_keys)
    return 6.0 * scaling_parameters(shape) + 12.0 * shape.d_model * attended


def flops_by_convention(shape: ModelShape) -> dict[str, float]:
    """Training FLOPs per token of one shape as each of `FLOPS_CONVENTIONS` counts them, FLOP/token."""
    tokens, d = shape.tokens_per_row, shape.d_model
    embedding = 2.0 * shape.vocab_size * d
    attention = 4.0 * tokens * d + 3.0 * shape.n_heads * tokens  # scores and values, softmax
    forward = 2.0 * shape_block_parameters(shape) + shape.n_layers * attention + embedding  # the last is the head
    return {
        "full": shape_train_flops_per_token(shape),
        "causal": windowed_flops_per_token(shape, [causal_window(tokens, tokens)] * shape.n_layers),
        "kaplan": 6.0 * shape_block_parameters(shape),
        "chinchilla": 3.0 * (forward + embedding),
        "chinchilla without embedding": 3.0 * forward,
    }


def recomputed_flops_per_token(shape: ModelShape, recompute: str) -> float:
    """Forward FLOPs per token that are computed twice: 0, 4 L d T, or 2 blocks + 4 L d T. Counted in HFU only.

    "full" is sometimes quoted as 2 N, with the head, which no one computes again, and without attention.
    """
    if recompute not in RECOMPUTED:
        raise ValueError(f"recompute={recompute!r}: allowed are {', '.join(RECOMPUTED)}")
    attention = 4.0 * shape.n_layers * shape.d_model * shape.tokens_per_row
    again = {"none": 0.0, "selective": attention, "full": attention + 2.0 * shape_block_parameters(shape)}
    return again[recompute]


@checked
def causal_window(window_tokens: int, tokens_per_row: int) -> float:
    """Mean number of keys a query really sees, w - w^2/2T + w/2T: the "useful" attention width."""
    positive(tokens_per_row=tokens_per_row)
    window = min(window_tokens, tokens_per_row)
    return window - window**2 / (2 * tokens_per_row) + window / (2 * tokens_per_row)


def blocked_keys(tokens_per_row: int, query_block: int = QUERY_BLOCK, window: int | None = None) -> float:
    """Mean keys per query when queries go in blocks that skip the keys wholly in their future, as ours do on a CPU.

    sum over blocks of (queries * keys they may see) / T; equals T for a row of one block, (T + block) / 2 for whole
    blocks. With a window (the keys i - window < j <= i) a block also skips what lies before that of its first query.
    """
    whole(
        1, tokens_per_row=tokens_per_row, query_block=query_block, window=tokens_per_row if window is None else window
    )
    total = 0
    for start in range(0, tokens_per_row, query_block):
        end = min(start + query_block, tokens_per_row)
        total += (end - start) * (end - (0 if window is None else max(0, start - window + 1)))
    return total / tokens_per_row


def checkpoint_bytes(shape: ModelShape, bytes_per_parameter: int = 4) -> int:
    """Bytes of all tensors in a checkpoint's model.safetensors (fp32 by default), without the file's header."""
    whole(1, bytes_per_parameter=bytes_per_parameter)
    return total_parameters(shape) * bytes_per_parameter


def power_of_two_floor(count: int) -> int:
    """The largest power of two <= count; 0 for 0."""
    whole(0, count=count)
    return 1 << (count.bit_length() - 1) if count > 0 else 0
