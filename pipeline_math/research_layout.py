"""Step 4, what the extras of a research model cost: parameters and FLOPs exactly, memory by what they keep.

The extras are those of model/research.py, each on its own: sliding windows, value embeddings, residual scalars, sharper
queries and keys. `layouts.RESEARCH` is the published set, which has 26 weights more (smear and backout).
Symbols as in `model_flops_vram`; G = 12 channels that open the gate of a value embedding.
"""

from dataclasses import dataclass

from pipeline_math.checks import whole
from pipeline_math.model_flops_vram import (
    ModelShape,
    scaling_parameters,
    total_parameters,
    windowed_flops_per_token,
)
from pipeline_math.static_memory import StaticBytes, default_static

GATE_CHANNELS = 12
"""Channels of the normed stream that a value embedding's gate sees (model.research.GATE_CHANNELS)."""
WINDOW_STEP = 128
"""Short windows are whole multiples of this many tokens (model.research.WINDOW_STEP)."""


def short_window_tokens(tokens_per_row: int) -> int:
    """S of the layout "SSSL": a quarter of the row, rounded up to a multiple of 128 tokens (karpathy/nanochat)."""
    whole(1, tokens_per_row=tokens_per_row)
    return -(-tokens_per_row // (4 * WINDOW_STEP)) * WINDOW_STEP


def pattern_windows(pattern: str, n_layers: int, tokens_per_row: int) -> list[int]:
    """Window of each layer in tokens: the letters S and L of `pattern`, repeated; the last layer is always full."""
    whole(1, n_layers=n_layers)
    if not pattern or set(pattern) - set("SL"):
        raise ValueError(f"window_pattern={pattern!r}; allowed are the letters S and L, such as 'SSSL'")
    size = {"S": min(short_window_tokens(tokens_per_row), tokens_per_row), "L": tokens_per_row}
    return [*(size[pattern[layer % len(pattern)]] for layer in range(n_layers - 1)), tokens_per_row]


@dataclass(frozen=True)
class ResearchExtras:
    """Which extras a model has, in the words of model.research.ResearchConfig; the default is the published set."""

    window_pattern: str = "SSSL"
    value_embeddings: bool = True
    residual_scalars: bool = True
    qk_scale: float = 1.2
    sequence_length: int | None = None
    """The model's longest row, whose quarter a short window is; None takes the shape's own row."""

    def windows(self, shape: ModelShape) -> list[int]:
        """Keys that a query of each layer may meet at most."""
        longest = pattern_windows(self.window_pattern, shape.n_layers, self.sequence_length or shape.tokens_per_row)
        return [min(window, shape.tokens_per_row) for window in longest]

    def value_embedding_layers(self, shape: ModelShape) -> int:
        """Every other layer, the last included: ceil(L / 2)."""
        return -(-shape.n_layers // 2) if self.value_embeddings else 0

    def extra_parameters(self, shape: ModelShape) -> dict[str, int]:
        """Weights beyond the default layout: ceil(L/2) V Hkv q, ceil(L/2) G Hkv, 2 L."""
        layers = self.value_embedding_layers(shape)
        return {
            "value_embeddings": layers * shape.vocab_size * shape.kv_width,
            "gates": layers * GATE_CHANNELS * shape.n_kv_heads,
            "scalars": 2 * shape.n_layers * self.residual_scalars,
        }

    def total_parameters(self, shape: ModelShape) -> int:
        """All parameters."""
        return total_parameters(shape) + sum(self.extra_parameters(shape).values())

    def scaling_parameters(self, shape: ModelShape) -> int:
        """Weights that multiply the token stream: blocks, head, gates. Value embeddings are look-ups."""
        return scaling_parameters(shape) + self.extra_parameters(shape)["gates"]

    def train_flops_per_token(self, shape: ModelShape) -> float:
        """F = 6 N + 12 d sum_l w_l, FLOP/token, w_l the window in full, not halved for causality."""
        gates = 6.0 * self.extra_parameters(shape)["gates"]
        return windowed_flops_per_token(shape, [float(window) for window in self.windows(shape)]) + gates

    def static_bytes(self, shape: ModelShape, optimizer_shards: int = 1, weight_shards: int = 1) -> StaticBytes:
        """`default_static` and the extras, fp32: Muon's 4 B per gate weight and longer side, AdamW's 8 B elsewhere."""
        extra = self.extra_parameters(shape)
        base = default_static(shape, optimizer_shards, weight_shards)
        weights = 4.0 * sum(extra.values()) / weight_shards
        gate_sides = extra["gates"] // min(12, shape.n_kv_heads)  # NorMuon's second moment of the longer side
        optimizer = 4.0 * (extra["gates"] + gate_sides) + 8.0 * (extra["value_embeddings"] + extra["scalars"])
        return StaticBytes(
            base.weights_bytes + weights,
            base.gradients_bytes + weights,
            base.optimizer_bytes + optimizer / max(optimizer_shards, weight_shards),
        )

    def kept_bytes(self, shape: ModelShape, rows: int, activation_bytes: int, kind: str, copied: bool) -> float:
        """Activations that the extras keep for the backward pass, without recomputation; windows keep nothing.

        The stream before every scalar but the first; the embedded values and their gates; queries before their factor,
        unless attention copies them anyway. A GPU's fused norm does not keep its output, which x0 is.
        """
        per_token = 0
        if self.residual_scalars:
            per_token += (shape.n_layers - (1 if kind == "cpu" else 0)) * shape.d_model
        per_token += self.value_embedding_layers(shape) * (shape.kv_width + 2 * shape.n_kv_heads)
        if self.qk_scale != 1.0 and not copied:
            per_token += shape.n_layers * shape.d_model
        return float(per_token * rows * shape.tokens_per_row * activation_bytes)

    def recomputed_layer_bytes(
        self, shape: ModelShape, rows: int, activation_bytes: int, kind: str, copied: bool
    ) -> float:
        """What of `kept_bytes` the one layer needs that is computed again: its share, at most that of any layer."""
        single = ModelShape(**(vars(shape) | {"n_layers": 1}))
        return self.kept_bytes(single, rows, activation_bytes, kind, copied)
