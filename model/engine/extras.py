"""What a research model adds to a layer, for the engine; of the default model every part here does nothing.

The cache keeps all positions of windowed layers, too: rows of unequal length stay side by side, and only the keys
inside the window are read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from model.research import GATE_CHANNELS, add_value_embedding, has_value_embedding, layer_window

if TYPE_CHECKING:
    from model.gpt_config import GPTConfig

# B rows, T tokens of a prompt, M = B or B*T tokens, D width, N query heads, G key-value heads, H head dim, L layers


@dataclass(frozen=True)
class LayerExtras:
    """The extras of one layer; the defaults are a layer of the default model."""

    window: int | None = None
    """Newest positions a token sees, its own included; None: all."""
    score_scale: float = 1.0
    table: Tensor | None = None
    """Value embeddings (V, G * H) in the compute dtype."""
    gate: Tensor | None = None
    """(G, GATE_CHANNELS) in the compute dtype."""
    scalars: tuple[float, float] | None = None
    """Factors of the stream and of the normed embedding."""

    def mix(self, hidden_MD: Tensor, first_MD: Tensor) -> Tensor:
        """The stream that enters the layer."""
        if self.scalars is None:
            return hidden_MD
        residual, first = self.scalars
        return residual * hidden_MD + first * first_MD

    def sharpen(self, q_MNH: Tensor) -> Tensor:
        return q_MNH if self.score_scale == 1.0 else q_MNH * self.score_scale

    def add_value_embedding(self, v_MGH: Tensor, ids_M: Tensor, normed_MD: Tensor) -> Tensor:
        if self.table is None or self.gate is None:
            return v_MGH
        gate_MG = F.linear(normed_MD[:, :GATE_CHANNELS], self.gate)
        return add_value_embedding(v_MGH, F.embedding(ids_M, self.table).view_as(v_MGH), gate_MG)


def read_extras(
    weights: Mapping[str, Tensor], config: "GPTConfig", layer: int, convert: Callable[[Tensor], Tensor]
) -> LayerExtras:
    """The extras of a layer from the tensors of a checkpoint; `convert` brings a matrix to device and compute dtype."""
    research = config.research
    if research is None:
        return LayerExtras()
    table = gate = scalars = None
    if has_value_embedding(research, layer, config.n_layers):
        name = f"model.layers.{layer}.self_attn.value_"
        table, gate = convert(weights[f"{name}embed.weight"]), convert(weights[f"{name}gate.weight"])
    if research.residual_scalars:
        scalars = float(weights["model.residual_scalars"][layer]), float(weights["model.input_scalars"][layer])
    window = layer_window(research, layer, config.n_layers, config.sequence_length)
    return LayerExtras(window, research.qk_scale**2, table, gate, scalars)


def extra_shapes(config: "GPTConfig") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a research model has and the default one has not."""
    research, shapes = config.research, dict[str, tuple[int, ...]]()
    for layer in range(config.n_layers):
        if has_value_embedding(research, layer, config.n_layers):
            name = f"model.layers.{layer}.self_attn.value_"
            shapes[f"{name}embed.weight"] = (config.vocab_size, config.n_kv_heads * config.head_dim)
            shapes[f"{name}gate.weight"] = (config.n_kv_heads, GATE_CHANNELS)
    if research is not None and research.residual_scalars:
        shapes |= {f"model.{kind}_scalars": (config.n_layers,) for kind in ("residual", "input")}
    return shapes


def windowed_mask(tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """(T, T), true where query i sees key j: i - window < j <= i. None where the plain causal mask says the same."""
    if window is None or window >= tokens:
        return None
    age = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)
    return (age >= 0) & (age < window)


def visible_keys(lengths: list[int], window: int | None, device: torch.device) -> tuple[int, Tensor | None]:
    """For tokens at positions `lengths`: the oldest position any row sees, and who sees which from there on.

    The mask is (B, 1, 1, S - oldest), or None where every row sees all of them.
    """
    oldest = 0 if window is None else max(0, min(lengths) + 1 - window)
    if min(lengths) == max(lengths):
        return oldest, None
    keys_S, positions_B1 = torch.arange(oldest, max(lengths) + 1, device=device), torch.tensor(lengths, device=device)
    positions_B1 = positions_B1[:, None]
    mask_BS = keys_S <= positions_B1
    if window is not None:
        mask_BS &= keys_S > positions_B1 - window
    return oldest, mask_BS[:, None, None]
