"""Step 4, memory that training holds however few rows a micro-batch has: weights, gradients, optimizer state."""

from dataclasses import dataclass

from pipeline_math.checks import not_negative, whole
from pipeline_math.model_flops_vram import ModelShape, shape_block_parameters, total_parameters


@dataclass(frozen=True)
class StaticBytes:
    """What a step holds however few rows it has."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float

    def __post_init__(self) -> None:
        not_negative(**vars(self))

    @property
    def total_bytes(self) -> float:
        """Their sum."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes


def default_static(shape: ModelShape, optimizer_shards: int = 1) -> StaticBytes:
    """Weights, gradients and optimizer state of our training loop.

    fp32 master weights and gradients everywhere (4 + 4), one fp32 momentum for block matrices (Muon, 4), two fp32
    moments for embedding and head (AdamW, 8). `optimizer_shards` divides the optimizer state (ZeRO-1/2).
    Gradients count from the first micro-batch on, though they appear only in its backward pass.
    """
    whole(1, optimizer_shards=optimizer_shards)
    tables = 2 * shape.vocab_size * shape.d_model
    optimizer = (4.0 * shape_block_parameters(shape) + 8.0 * tables) / optimizer_shards
    return StaticBytes(4.0 * total_parameters(shape), 4.0 * total_parameters(shape), optimizer)


def static_memory_bytes(shape: ModelShape, optimizer_shards: int = 1) -> float:
    """Weights, gradients and optimizer state of `default_static` together."""
    return default_static(shape, optimizer_shards).total_bytes
