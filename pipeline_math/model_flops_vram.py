"""Step 4, model configuration: parameters, FLOPs per token, file bytes and training memory. All exact but memory.

Symbols: L layers, d width, H query heads, Hkv key/value heads, q = d/H head dimension, V padded vocabulary,
T tokens per row, B rows per micro-batch. The default layout is NanoChatForCausalLM of transformers.
"""

from dataclasses import dataclass

COMPILED_ACTIVATION_BYTES = 25.2
"""K: saved bytes per token, layer and channel, torch.compile; +-20-30 %.

Solved with G from two public runs: nanochat d12 (34 GB, 32 rows) and karpathy/autoresearch d8 (44 GiB, 128 rows).
"""
EAGER_ACTIVATION_BYTES = 36.0
"""The same without a compiler, counted tensor by tensor for our block, not measured."""
FULL_LOGIT_BYTES = 9.2
"""G: bytes per logit when all B T V of them are kept; from the same two runs as K."""
CHUNK_LOGIT_BYTES = 12.0
"""Bytes per logit of one chunk of a chunked linear + cross-entropy (Liger, arXiv 2410.10989)."""
RESERVED_OVER_ALLOCATED = 1.15
"""Allocator fragmentation and workspaces: reserved over allocated bytes; modded-nanogpt logs have 1.04 to 1.52."""
USABLE_MEMORY_SHARE = 0.92
"""Share of a device's memory a plan fills; the rest is a margin."""
DEVICE_CONTEXT_BYTES = 1.0e9
"""Memory a CUDA context takes before the first tensor: 0.3-2 GiB."""
HOST_PROCESS_BYTES = 4.0e8
"""ASSUMPTION, not measured: the same on a CPU, for interpreter, libraries and a reader of the rows."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers that decide every cost of the default layout (no biases, no norm weights, head not tied)."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    mlp_width: int
    vocab_size: int
    tokens_per_row: int

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.n_heads


def width_of_depth(depth: int, head_dim: int = 128) -> int:
    """Width d in channels: 64 per layer, rounded up to whole heads (karpathy/nanochat)."""
    return -(-64 * depth // head_dim) * head_dim


def shape_of_depth(depth: int, vocab_size: int, tokens_per_row: int) -> ModelShape:
    """The default layout at a depth: head dimension 128, as many key/value heads as query heads, MLP 4 d wide."""
    width = width_of_depth(depth)
    heads = width // 128
    return ModelShape(depth, width, heads, heads, 4 * width, vocab_size, tokens_per_row)


def block_parameters(n_layers: int, d_model: int, n_heads: int, n_kv_heads: int, mlp_width: int) -> int:
    """Weights of the attention and MLP matrices of all layers: L (2 d^2 + 2 d Hkv q + 2 d mlp)."""
    kv_width = n_kv_heads * (d_model // n_heads)
    return n_layers * (2 * d_model**2 + 2 * d_model * kv_width + 2 * d_model * mlp_width)


def scaling_parameters(shape: ModelShape) -> int:
    """Weights that multiply the token stream: blocks + head. The count behind every "ratio" here.

    Kaplan counts blocks only, Chinchilla all parameters; a ratio means nothing without its convention.
    """
    return _blocks(shape) + shape.vocab_size * shape.d_model


def total_parameters(shape: ModelShape) -> int:
    """All parameters: blocks, head and embedding table, two tables because they are not tied."""
    return _blocks(shape) + 2 * shape.vocab_size * shape.d_model


def _blocks(shape: ModelShape) -> int:
    return block_parameters(shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width)


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
    return train_flops_per_token(
        shape.n_layers,
        shape.d_model,
        shape.n_heads,
        shape.n_kv_heads,
        shape.mlp_width,
        shape.vocab_size,
        shape.tokens_per_row,
    )


def causal_window(window_tokens: int, tokens_per_row: int) -> float:
    """Mean number of keys a query really sees, w - w^2/2T + w/2T: the "useful" attention width."""
    window = min(window_tokens, tokens_per_row)
    return window - window**2 / (2 * tokens_per_row) + window / (2 * tokens_per_row)


def checkpoint_bytes(shape: ModelShape, bytes_per_parameter: int = 4) -> int:
    """Bytes of all tensors in a checkpoint's model.safetensors (fp32 by default), without the file's header."""
    return total_parameters(shape) * bytes_per_parameter


def static_memory_bytes(shape: ModelShape, optimizer_shards: int = 1) -> float:
    """Weights, gradients and optimizer state of our training loop, in bytes.

    fp32 master weights and gradients everywhere (4 + 4), one fp32 momentum for block matrices (Muon, 4), two fp32
    moments for embedding and head (AdamW, 8). `optimizer_shards` divides the optimizer state (ZeRO-1/2).
    Left out: Muon's factored second moments (a row and a column per matrix) and temporary low-precision copies.
    """
    tables = 2 * shape.vocab_size * shape.d_model
    return 8.0 * total_parameters(shape) + (4.0 * _blocks(shape) + 8.0 * tables) / optimizer_shards


def training_memory_bytes(
    n_layers: int,
    d_model: int,
    vocab_size: int,
    tokens_per_row: int,
    rows: int,
    static_bytes: float,
    activation_bytes: float = COMPILED_ACTIVATION_BYTES,
    logit_bytes: float = FULL_LOGIT_BYTES,
) -> float:
    """Allocated bytes of one training step, L B T d K + B T V G + static: constants K and G.

    Agrees with five public reports of what fits nanochat and what runs out of memory. Left out: allocator overhead
    (`RESERVED_OVER_ALLOCATED`), the CUDA context, and explicit T x T attention scores.
    """
    tokens = rows * tokens_per_row
    return n_layers * tokens * d_model * activation_bytes + tokens * vocab_size * logit_bytes + static_bytes


def explicit_attention_bytes(
    n_layers: int, n_heads: int, tokens_per_row: int, rows: int, bytes_per_element: int, query_block: int = 256
) -> float:
    """Bytes of the attention weights kept for the backward pass where the score matrix is formed.

    Per layer and head, T queries in blocks that skip wholly future keys: T (T + block) / 2 weights. 0 with a fused
    kernel. Source: our own attention; derived, not measured.
    """
    block = min(query_block, tokens_per_row)
    return n_layers * rows * n_heads * tokens_per_row * (tokens_per_row + block) / 2.0 * bytes_per_element


def largest_micro_batch_rows(
    memory_bytes: float,
    n_layers: int,
    d_model: int,
    vocab_size: int,
    tokens_per_row: int,
    static_bytes: float,
    activation_bytes: float = COMPILED_ACTIVATION_BYTES,
    logit_bytes: float = FULL_LOGIT_BYTES,
    context_bytes: float = DEVICE_CONTEXT_BYTES,
) -> int:
    """Most rows of a micro-batch that fit: floor((0.92 memory - context - static) / (1.15 bytes per row)).

    `training_memory_bytes` solved for the rows. 0 when not even one row fits. Not rounded to a power of two.
    """
    per_row = training_memory_bytes(
        n_layers, d_model, vocab_size, tokens_per_row, 1, 0.0, activation_bytes, logit_bytes
    )
    room = memory_bytes * USABLE_MEMORY_SHARE - context_bytes - static_bytes
    return max(0, int(room // (RESERVED_OVER_ALLOCATED * per_row)))


def power_of_two_floor(count: int) -> int:
    """The largest power of two <= count; 0 for 0."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0
