"""Step 4, memory of a training step, in bytes, part by part, and the largest micro-batch that fits.

Two models. Without a compiler, the tensors our blocks keep are counted one by one (equal to what autograd keeps for the
real model, a test says so). With torch.compile, which decides by itself what to keep, two constants K and G are used,
solved from two public runs. Symbols: L layers, d width, H heads, V vocabulary, T tokens per row, B rows per
micro-batch, e bytes of an activation (2 in bf16, 4 in fp32).
"""

from dataclasses import asdict, dataclass

from pipeline_math.checks import not_negative, positive, whole
from pipeline_math.memory_constants import (
    COMPILED_ACTIVATION_BYTES,
    DEVICE_CONTEXT_BYTES,
    FULL_LOGIT_BYTES,
    HOST_RESERVED_OVER_ALLOCATED,
    RESERVED_OVER_ALLOCATED,
    USABLE_MEMORY_SHARE,
    training_memory_bytes,
)
from pipeline_math.model_flops_vram import (
    QUERY_BLOCK,
    ModelShape,
    blocked_keys,
    shape_block_parameters,
)
from pipeline_math.research_layout import ResearchExtras
from pipeline_math.static_memory import StaticBytes

EAGER_LOGIT_BYTES = 12.0
"""Bytes per logit when all are kept without a compiler: product or its fp32 copy, tanh, gradient, 4 bytes each."""
CHUNK_LOGIT_BYTES = 12.0
"""Upper bound of bytes per logit of one chunk in our chunked loss: the logits, which their gradient overwrites, and two
fp32 arrays (also the figure of Liger, arXiv 2410.10989). On a CPU the two exist for a block of the chunk only."""
LOSS_CHUNK_TOKENS = {"cpu": 512, "gpu": 8192}
"""Tokens whose logits exist at once in our loss, by kind of device (model.loss.CHUNK_TOKENS)."""
LOSS_BLOCK_LOGITS = 2**18
"""Logits per CPU thread that our loss works on at once in fp32 (model.loss.BLOCK_LOGITS)."""

NORM_BLOCK_VALUES = 2**17
"""Values per CPU thread whose fp32 copies our norms hold at once (model.norms.BLOCK_VALUES)."""


@dataclass(frozen=True)
class MemoryBreakdown:
    """Bytes on one device at the fullest moment of a training step."""

    weights_bytes: float
    """Master weights and, in bf16 without a compiler, bf16 copies of the block matrices."""
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    """Kept for the backward pass, and what that pass needs beyond the space that the logits free."""
    logits_bytes: float
    """All work of the loss: logits or one chunk of them, the gradient of the head made with it."""
    attention_scores_bytes: float
    """T x T probabilities kept where the score matrix is formed; 0 with a fused kernel or recomputation."""
    fragmentation_bytes: float
    context_bytes: float

    @property
    def allocated_bytes(self) -> float:
        """What torch.cuda.max_memory_allocated reports: without fragmentation and context."""
        return sum(asdict(self).values()) - self.fragmentation_bytes - self.context_bytes

    @property
    def total_bytes(self) -> float:
        """What the device must have."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class MemoryOptions:
    """How a step is computed, as far as memory depends on it. ValueError for an impossible value."""

    activation_bytes: int = 2
    """e: 2 for bf16 and fp16, 4 for fp32."""
    kind: str = "gpu"
    """"cpu" or "gpu": their norms keep different tensors, their losses have different chunks."""
    compiled: bool = False
    """With torch.compile: K and G instead of a count."""
    recompute: bool = False
    """Full recomputation: a layer keeps its input only and is computed again in the backward pass."""
    chunked_loss: bool = True
    """False keeps the logits of all tokens."""
    explicit_attention: bool = False
    """The score matrix is formed, in blocks of `query_block` queries; excludes `compiled`."""
    query_block: int = QUERY_BLOCK
    """QUERY_BLOCK on the explicit path, SMALL_QUERY_BLOCK on the blocked one."""
    threads: int = 1
    """Of a CPU: each has its own block of logits."""
    research: ResearchExtras | None = None
    """Extras of a research model; None: the default layout."""
    reserved_over_allocated: float | None = None
    """None takes the kind's."""
    context_bytes: float = DEVICE_CONTEXT_BYTES

    def __post_init__(self) -> None:
        if self.activation_bytes not in (2, 4):
            raise ValueError(f"activation_bytes={self.activation_bytes}: allowed are 2 (bf16, fp16) and 4 (fp32)")
        if self.kind not in LOSS_CHUNK_TOKENS:
            raise ValueError(f"kind={self.kind!r}: allowed are {', '.join(LOSS_CHUNK_TOKENS)}")
        if self.compiled and self.explicit_attention:
            raise ValueError("explicit_attention=True: with compiled=True allowed is False, K holds no score matrix")
        whole(1, threads=self.threads, query_block=self.query_block)
        not_negative(context_bytes=self.context_bytes, reserved_over_allocated=self.reserved)
        if self.reserved < 1:
            raise ValueError(f"reserved_over_allocated={self.reserved}: allowed are numbers from 1 up")

    @property
    def reserved(self) -> float:
        """Reserved over allocated bytes: as given, or the default of the kind of device."""
        by_kind = HOST_RESERVED_OVER_ALLOCATED if self.kind == "cpu" else RESERVED_OVER_ALLOCATED
        return by_kind if self.reserved_over_allocated is None else self.reserved_over_allocated


def layer_activation_bytes(shape: ModelShape, rows: int, options: MemoryOptions) -> float:
    """Bytes one of our layers keeps for the backward pass without a compiler; scores and weight copies not included.

    Per token, e (4 d + 2 Hkv q + 2 mlp): both norms' outputs, queries and attention output, keys and values, relu and
    its square; 4 bytes for the scale of every normalised vector. A GPU's fused norm keeps its input, too (derived, not
    measured). The explicit path copies queries and keys where rows and key heads cannot be merged, the fused kernel
    keeps H sums per token.
    """
    e, d, kv = options.activation_bytes, shape.d_model, shape.kv_width
    per_token = e * (4 * d + 2 * kv + 2 * shape.mlp_width) + 4 * (2 + shape.n_heads + shape.n_kv_heads)
    per_token += 2 * e * d if options.kind == "gpu" else 0
    if not options.explicit_attention:
        per_token += 4 * shape.n_heads
    elif _copies_queries(shape, rows, options):
        per_token += e * (d + kv)
    return float(per_token * rows * shape.tokens_per_row)


def _copies_queries(shape: ModelShape, rows: int, options: MemoryOptions) -> bool:
    return options.explicit_attention and rows > 1 and shape.n_kv_heads > 1


def research_bytes(shape: ModelShape, rows: int, options: MemoryOptions) -> float:
    """Bytes that all extras of a research model keep, with recomputation those of one layer; 0 for the default."""
    if options.research is None:
        return 0.0
    count = options.research.recomputed_layer_bytes if options.recompute else options.research.kept_bytes
    return count(shape, rows, options.activation_bytes, options.kind, _copies_queries(shape, rows, options))


def explicit_attention_bytes(
    n_layers: int,
    n_heads: int,
    tokens_per_row: int,
    rows: int,
    bytes_per_element: int,
    query_block: int = QUERY_BLOCK,
    window: int | None = None,
) -> float:
    """Bytes of the attention weights kept for the backward pass where the score matrix is formed: L B H T w e.

    w = `blocked_keys`: queries go in blocks that skip wholly future keys. 0 with a fused kernel.
    """
    whole(0, n_layers=n_layers, n_heads=n_heads, rows=rows, bytes_per_element=bytes_per_element)
    keys = blocked_keys(tokens_per_row, query_block, window)
    return n_layers * rows * n_heads * tokens_per_row * keys * bytes_per_element


def _score_bytes(shape: ModelShape, rows: int, options: MemoryOptions) -> list[float]:
    """Per layer what attention keeps that grows with T^2: the weights, or a CPU's fused kernel the mask of a window."""
    e, tokens = options.activation_bytes, shape.tokens_per_row
    windows = [tokens] * shape.n_layers if options.research is None else options.research.windows(shape)
    if options.explicit_attention:
        block = options.query_block
        return [explicit_attention_bytes(1, shape.n_heads, tokens, rows, e, block, window) for window in windows]
    return [float(e * tokens**2) if window < tokens and options.kind == "cpu" else 0.0 for window in windows]


def loss_bytes(shape: ModelShape, rows: int, options: MemoryOptions) -> float:
    """Bytes of the loss. Chunked: one chunk's logits and what is made from them at the product that gives the head's
    gradient; the head scaled, its gradient and that product; the gradient of the hidden states."""
    e, tokens, head = options.activation_bytes, rows * shape.tokens_per_row, shape.vocab_size * shape.d_model
    if not options.chunked_loss:
        per_logit = FULL_LOGIT_BYTES if options.compiled else EAGER_LOGIT_BYTES + (2 if e == 2 else 0)
        return tokens * shape.vocab_size * per_logit
    chunk = min(tokens, LOSS_CHUNK_TOKENS[options.kind])
    block = chunk
    if options.kind == "cpu":
        block = min(chunk, max(1, LOSS_BLOCK_LOGITS * options.threads // shape.vocab_size))
    widened = 4 if e == 2 and options.kind == "cpu" else 0  # a CPU adds bf16 to fp32 by way of an fp32 copy
    return shape.vocab_size * (e * chunk + 8.0 * block) + head * (4 + 2 * e + widened) + e * shape.d_model * tokens


def _backward_bytes(shape: ModelShape, rows: int, options: MemoryOptions) -> tuple[float, float]:
    """Most bytes the backward pass needs beside what is kept, without a compiler: (in loss or last norm, in a layer).

    In a layer: in its MLP or in its explicit attention, less what its MLP has freed by then. A value embedding's
    gradient, 4 V Hkv q, is less than the head took in the loss. Checked against torch's own record of allocations.
    """
    e, d, tokens = options.activation_bytes, shape.d_model, rows * shape.tokens_per_row
    loss = 0.0 if options.chunked_loss else 2.0 * e * d * tokens  # ours hands on what it made with the loss
    norm = 2.0 * e * d * tokens  # gradient in and out; fp32 copies of both operands only where they are bf16
    if options.kind == "cpu":
        norm += (12.0 if e == 2 else 8.0) * min(tokens * d, NORM_BLOCK_VALUES * options.threads)
    mlp = float(tokens * e * (d + shape.mlp_width))
    if not options.explicit_attention:
        return max(loss, norm), mlp
    block = min(options.query_block, shape.tokens_per_row)
    scores = 2.0 * rows * shape.n_heads * block * shape.tokens_per_row * e
    return max(loss, norm), max(mlp, scores + tokens * e * (4.0 * d - 2 * shape.mlp_width))


def _eager_activations(shape: ModelShape, rows: int, options: MemoryOptions, logits: float) -> tuple[float, float]:
    """(activations, scores): what is kept, and what the backward pass needs beyond the space the logits free."""
    e, tokens = options.activation_bytes, rows * shape.tokens_per_row
    ends = float(tokens * (2 * e * shape.d_model + 8))  # what the first and the last norm keep
    layer = layer_activation_bytes(shape, rows, options)
    scores = _score_bytes(shape, rows, options)
    outside, inside = _backward_bytes(shape, rows, options)
    extras = research_bytes(shape, rows, options)
    if options.recompute:
        stream = float(tokens * shape.d_model * e)  # the first layer's input is kept by its norm
        again = max(kept - later * stream for later, kept in enumerate(reversed(scores)))
        inputs = (shape.n_layers - 1) * stream
        return inputs + ends + max(0.0, outside - logits, layer + extras + again + inside - logits), 0.0
    kept = shape.n_layers * layer + ends + extras
    return kept + max(0.0, outside - logits, inside - logits), sum(scores)


def _compiled_activations(shape: ModelShape, rows: int, options: MemoryOptions) -> float:
    """L B T d K, in fp32 twice; with recomputation the layers' inputs and one layer."""
    e, tokens, d = options.activation_bytes, shape.tokens_per_row, shape.d_model
    layers = 1 if options.recompute else shape.n_layers
    kept = training_memory_bytes(layers, d, 1, tokens, rows, 0.0, COMPILED_ACTIVATION_BYTES * e / 2, 0.0)
    kept += research_bytes(shape, rows, options)  # ASSUMPTION: the compiler keeps what the extras keep without it
    return kept + (shape.n_layers * rows * tokens * d * e if options.recompute else 0.0)


def training_memory(
    shape: ModelShape, rows: int, static: StaticBytes, options: MemoryOptions | None = None
) -> MemoryBreakdown:
    """Memory of a training step with micro-batches of `rows` rows of the default block layout.

    Left out: the optimizer's own temporaries (the activations are gone by then), communication buffers. Compiled: K
    was fitted to blocks with mlp = 4 d and as many key as query heads.
    """
    options = options or MemoryOptions()
    whole(1, rows=rows)
    logits, scores, copies = loss_bytes(shape, rows, options), 0.0, 0.0
    if options.compiled:
        kept = _compiled_activations(shape, rows, options)
    else:
        kept, scores = _eager_activations(shape, rows, options, logits)
        layers_with_copies = 1 if options.recompute else shape.n_layers
        matrices = shape_block_parameters(shape)
        if options.research is not None:
            matrices += options.research.extra_parameters(shape)["gates"]
        copies = 2.0 * matrices * layers_with_copies / shape.n_layers
    return MemoryBreakdown(
        weights_bytes=static.weights_bytes + (copies if options.activation_bytes == 2 else 0.0),
        gradients_bytes=static.gradients_bytes,
        optimizer_bytes=static.optimizer_bytes,
        activations_bytes=kept,
        logits_bytes=logits,
        attention_scores_bytes=scores,
        fragmentation_bytes=(options.reserved - 1) * (kept + logits + scores),
        context_bytes=options.context_bytes,
    )


def largest_rows(memory_bytes: float, shape: ModelShape, static: StaticBytes, options: MemoryOptions) -> int:
    """Most rows for which `training_memory` stays within 0.92 of the device; 0 when not even one row fits."""
    positive(memory_bytes=memory_bytes)
    room = memory_bytes * USABLE_MEMORY_SHARE

    def fits(rows: int) -> bool:
        return training_memory(shape, rows, static, options).total_bytes <= room

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
