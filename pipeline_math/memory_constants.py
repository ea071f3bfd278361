"""Step 4, memory of a training step from two constants fitted to probe runs, and a published rule for 16-bit blocks.

Symbols as in `training_memory`, which uses these constants where torch.compile decides what is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_math.checks import checked, positive, whole

COMPILED_ACTIVATION_BYTES = 25.2
"""K: bytes per token, layer and channel with torch.compile in bf16; +-20-30 %.

Solved with G (`fit_memory_constants`) from karpathy/nanochat d12 (34 GB, 32 rows) and karpathy/autoresearch d8
(44 GiB, 128 rows); K and G compensate each other, their sum is known better.
"""
FULL_LOGIT_BYTES = 9.2
"""G: bytes per logit when all B T V of them are kept, compiled; from the same two runs as K."""
EAGER_ACTIVATION_BYTES = 36.0
"""Upper estimate of K without a compiler: 28 (CPU) to 32 (GPU) kept per layer, and the backward pass's own memory.

For a solver that wants one number; `training_memory` counts instead.
"""
RESERVED_OVER_ALLOCATED = 1.15
"""Allocator fragmentation and workspaces: reserved over allocated bytes; modded-nanogpt logs have 1.04 to 1.52."""
USABLE_MEMORY_SHARE = 0.92
"""Share of a device's memory a plan fills; the rest is a margin."""
USEFUL_MICRO_BATCH_TOKENS = {"cpu": 8192, "gpu": 65536}
"""Tokens of a micro-batch beyond which throughput no longer grows. CPU: measured; GPU: ASSUMPTION."""
DEVICE_CONTEXT_BYTES = 1.0e9
"""Memory a CUDA context takes before the first tensor: 0.3-2 GiB."""
HOST_PROCESS_BYTES = 4.0e8
"""The same on a CPU: interpreter, torch and its first kernels were measured at 3.5e8 (torch 2.13, Linux), the rest is
assumed for a reader of the rows."""
HOST_RESERVED_OVER_ALLOCATED = 1.8
"""`RESERVED_OVER_ALLOCATED` on a CPU: resident over allocated bytes of what grows with the rows, 1.55 to 2.2 in nine
short runs (d2 to d6, 1 to 32 rows, both precisions): glibc keeps freed blocks of up to 32 MiB. With
MALLOC_MMAP_THRESHOLD_=65536 it was 1.0, but the time the kernel spent rose ninefold."""


@dataclass(frozen=True)
class MemoryProbe:
    """One training step whose peak was measured."""

    n_layers: int
    d_model: int
    vocab_size: int
    tokens_per_row: int
    rows: int
    static_bytes: float
    peak_bytes: float
    """Allocated, without the device's context."""

    def __post_init__(self) -> None:
        positive(**vars(self))

    @property
    def layer_channels(self) -> float:
        """What K multiplies: L B T d."""
        return float(self.n_layers * self.rows * self.tokens_per_row * self.d_model)

    @property
    def logits(self) -> float:
        """What G multiplies: B T V."""
        return float(self.rows * self.tokens_per_row * self.vocab_size)


@checked
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


@checked
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
    positive(bytes_per_row=per_row)
    room = memory_bytes * USABLE_MEMORY_SHARE - context_bytes - static_bytes
    return max(0, int(room // (RESERVED_OVER_ALLOCATED * per_row)))


def fit_memory_constants(probes: Sequence[MemoryProbe]) -> tuple[float, float]:
    """(K, G) by least squares of peak - static = K L B T d + G B T V, in bytes; exact for two probes.

    ValueError unless the probes differ in layers * width over vocabulary: otherwise only a sum of K and G is known.
    """
    aa = sum(probe.layer_channels**2 for probe in probes)
    bb = sum(probe.logits**2 for probe in probes)
    ab = sum(probe.layer_channels * probe.logits for probe in probes)
    determinant = aa * bb - ab * ab
    if len(probes) < 2 or determinant <= 1e-9 * aa * bb:
        raise ValueError(
            f"{len(probes)} memory probes do not tell activations from logits: allowed are two or more with different "
            f"n_layers * d_model / vocab_size; next: probe another depth or vocabulary"
        )
    ay = sum(probe.layer_channels * (probe.peak_bytes - probe.static_bytes) for probe in probes)
    by = sum(probe.logits * (probe.peak_bytes - probe.static_bytes) for probe in probes)
    return (bb * ay - ab * by) / determinant, (aa * by - ab * ay) / determinant


KORTHIKANTI_BYTES = {"none": (34.0, 5.0), "selective": (34.0, 0.0), "full": (2.0, 0.0)}
"""Recomputation -> (bytes per token and channel, bytes per score) of `korthikanti_layer_bytes`."""


def korthikanti_layer_bytes(
    tokens_per_row: int, rows: int, d_model: int, n_heads: int, recompute: str = "none"
) -> float:
    """Activation bytes of a layer of a 16-bit GPT with dropout, s b h (34 + 5 a s / h) (arXiv 2205.05198, table 2).

    "selective" (also with FlashAttention) keeps no scores, "full" keeps the layer's input only: 2 s b h. For comparison
    with other calculators; our blocks have no dropout and another activation function.
    """
    whole(1, tokens_per_row=tokens_per_row, rows=rows, d_model=d_model, n_heads=n_heads)
    if recompute not in KORTHIKANTI_BYTES:
        raise ValueError(f"recompute={recompute!r}: allowed are {', '.join(KORTHIKANTI_BYTES)}")
    per_channel, per_score = KORTHIKANTI_BYTES[recompute]
    return float(tokens_per_row * rows * (per_channel * d_model + per_score * n_heads * tokens_per_row))
