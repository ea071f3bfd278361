"""Extras of newer nanochat that NanoChatForCausalLM does not have: windows, value embeddings, scalars, sharper queries.

Off by default (`GPTConfig.research` is None): a model with any of them cannot be exported by name. The published set
(karpathy/nanochat, July 2026) is what `ResearchConfig()` says; what each part is reported to gain stands beside it.

Shape legend: B rows, T tokens, D model width, M key/value heads, H head dim, L layers.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

GATE_CHANNELS = 12
"""Channels of the normed stream that decide how much of a value embedding is added."""
WINDOW_STEP = 128
"""Short windows are whole multiples of this many tokens: the tile of the attention kernels."""
RESIDUAL_SLOPE, INPUT_SLOPE = (1.15, 1.05), (0.20, 0.05)
"""Initial values of the scalars in the first and the last layer; linear between."""


@dataclasses.dataclass(frozen=True)
class ResearchConfig:
    """Which extras a model has. ValueError names the field that cannot work."""

    window_pattern: str = "SSSL"
    """One letter per layer, repeated: S sees a quarter of the row, L all of it. The last layer is always L."""
    value_embeddings: bool = True
    """Every other layer, the last included, adds 3 sigmoid(Wg x[:12]) E'[id] to the values of each head."""
    residual_scalars: bool = True
    """Before each layer x = a x + b x0 with x0 the normed embedding; a and b are learned, one pair a layer."""
    qk_scale: float = 1.2
    """Factor on queries and on keys after their norm; scores grow by its square."""

    def __post_init__(self) -> None:
        pattern, scale = self.window_pattern, self.qk_scale
        if not isinstance(pattern, str) or not pattern or set(pattern) - set("SL"):
            raise ValueError(f"research: window_pattern={pattern!r}; allowed: letters S and L, such as 'SSSL'")
        for name in ("value_embeddings", "residual_scalars"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"research: {name}={getattr(self, name)!r}; allowed: true, false")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
            raise ValueError(f"research: qk_scale={scale!r}; allowed: a number above 0, 1.0 for none")

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "ResearchConfig":
        """From a mapping as JSON or YAML holds it; what is not named is as published. ValueError for unknown names."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"research: unknown fields {unknown}; allowed: {', '.join(known)}")
        return cls(**values)

    def extras(self) -> list[str]:
        """What this model has beyond NanoChatForCausalLM, in words."""
        present = {
            f"windows {self.window_pattern}": "S" in self.window_pattern,
            "value embeddings": self.value_embeddings,
            "residual scalars": self.residual_scalars,
            f"queries and keys x {self.qk_scale}": self.qk_scale != 1.0,
        }
        return [name for name, there in present.items() if there]


def short_window(sequence_length: int) -> int:
    """Tokens an S layer sees, the query's own included: ceil(T / 4 / 128) * 128."""
    return -(-sequence_length // (4 * WINDOW_STEP)) * WINDOW_STEP


def layer_window(research: ResearchConfig | None, layer: int, n_layers: int, sequence_length: int) -> int | None:
    """Window of a layer in tokens: key j is visible to query i where i - window < j <= i; None is the whole row."""
    if research is None or layer == n_layers - 1:
        return None
    window = short_window(sequence_length)
    is_short = research.window_pattern[layer % len(research.window_pattern)] == "S"
    return window if is_short and window < sequence_length else None


def has_value_embedding(research: ResearchConfig | None, layer: int, n_layers: int) -> bool:
    """Every other layer, counted back from the last: ceil(L / 2) of them."""
    return research is not None and research.value_embeddings and (n_layers - 1 - layer) % 2 == 0


def add_value_embedding(v_BTMH: Tensor, embedded_BTMH: Tensor, gate_BTM: Tensor) -> Tensor:
    """v + 3 sigmoid(gate) e per key/value head; a gate of 0 adds 1.5 e."""
    return v_BTMH + (3 * torch.sigmoid(gate_BTM)).unsqueeze(-1) * embedded_BTMH


def initial_scalars(n_layers: int) -> tuple[Tensor, Tensor]:
    """(residual, input) scalars [L] at the start of training."""
    return torch.linspace(*RESIDUAL_SLOPE, n_layers), torch.linspace(*INPUT_SLOPE, n_layers)
