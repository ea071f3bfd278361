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


def default_static(shape: ModelShape, optimizer_shards: int = 1, weight_shards: int = 1) -> StaticBytes:
    """Weights, gradients and optimizer state of our training loop on each of several devices.

    fp32 master weights and gradients everywhere (4 + 4); for block matrices one fp32 momentum (Muon, 4) and a second
    moment for each row or column of the longer side (NorMuon); two fp32 moments for embedding and head (AdamW, 8).
    `optimizer_shards` divides the optimizer state alone (ZeRO-1, arXiv 1910.02054), `weight_shards` all three (fully
    sharded, ZeRO-3), plus what is gathered while it computes. Gradients count from the first micro-batch on, though
    they appear only in its backward pass.
    """
    whole(1, optimizer_shards=optimizer_shards, weight_shards=weight_shards)
    tables = 2 * shape.vocab_size * shape.d_model
    sides = shape.n_layers * (4 * shape.d_model + 2 * max(shape.mlp_width, shape.d_model))
    optimizer = 4.0 * (shape_block_parameters(shape) + sides + 2 * tables) / max(optimizer_shards, weight_shards)
    weights = 4.0 * total_parameters(shape) / weight_shards
    return StaticBytes(weights + gathered_bytes(shape, weight_shards), weights, optimizer)


def gathered_bytes(shape: ModelShape, weight_shards: int) -> float:
    """fp32 weights that fully sharded training holds whole beside its part; 0 for one device.

    Two layers, the one at work and the one fetched ahead, and embedding and head, which stay whole between the forward
    and the backward pass. ASSUMPTION, not measured here: torch's `fully_shard` per layer with its own settings.
    """
    whole(1, weight_shards=weight_shards)
    if weight_shards == 1:
        return 0.0
    layers = min(2, shape.n_layers) * shape_block_parameters(shape) / shape.n_layers
    return 4.0 * (layers + 2 * shape.vocab_size * shape.d_model)


def static_memory_bytes(shape: ModelShape, optimizer_shards: int = 1) -> float:
    """Weights, gradients and optimizer state of `default_static` together."""
    return default_static(shape, optimizer_shards).total_bytes
