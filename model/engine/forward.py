"""The forward pass for inference, over the tensor names of transformers' NanoChatForCausalLM.

Same function as model/gpt.py, arranged for decoding one token at a time: q, k and v are one matrix; the weights are
converted once; the rows of the q and k weights are reordered so that the two halves that RoPE rotates lie side by side
and the rotation is one complex product (norms and dot products do not notice the order of the components).
The residual stream and all norms are fp32; matrix products use the compute dtype.

Research models (model/research.py) are computed, too: what they add is spelt out in model/engine/extras.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from model.engine.extras import LayerExtras, extra_shapes, read_extras, visible_keys, windowed_mask
from model.engine.kv_cache import KVCache

if TYPE_CHECKING:
    from model.gpt import GPTConfig

# B rows, T tokens of a prompt, M = B or B*T tokens, D width, N query heads, G key-value heads, H head dim, V vocabulary


@dataclass(frozen=True)
class Layer:
    """Weights of one block in the compute dtype."""

    qkv: Tensor
    """((N + 2G) * H, D): q and k rows with their RoPE halves interleaved, then v."""
    o: Tensor
    fc1: Tensor
    fc2: Tensor
    extras: LayerExtras


@dataclass
class Work:
    """What a forward pass has computed since it was made."""

    prefill_tokens: int = 0
    """Padding included."""
    decode_steps: int = 0
    decoded_tokens: int = 0

    @property
    def rows_per_decode_step(self) -> float:
        """Mean sequences decoded side by side."""
        return self.decoded_tokens / max(1, self.decode_steps)


class ForwardPass:
    """Weights and tables of one model on one device. The cache is passed in; only a count of the work is kept."""

    def __init__(
        self, weights: Mapping[str, Tensor], config: "GPTConfig", dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        check_names(weights, config)
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        self.n_rotated = config.n_heads + config.n_kv_heads
        self.head_dim = config.d_model // config.n_heads
        half = self.head_dim // 2
        interleave = torch.arange(self.head_dim).view(2, half).T.reshape(-1)

        def convert(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=self.device, dtype=dtype).contiguous()

        def rotated(tensor: Tensor) -> Tensor:
            heads = tensor.view(-1, self.head_dim, config.d_model)
            return heads[:, interleave.to(tensor.device)].reshape(tensor.shape)

        self.layers = []
        for number in range(config.n_layers):
            name = f"model.layers.{number}."
            q, k, v, o = (weights[f"{name}self_attn.{part}_proj.weight"] for part in "qkvo")
            fc1, fc2 = (weights[f"{name}mlp.{part}.weight"] for part in ("fc1", "fc2"))
            fused = torch.cat([rotated(q.detach()), rotated(k.detach()), v.detach()])
            extras = read_extras(weights, config, number, convert)
            self.layers.append(Layer(convert(fused), convert(o), convert(fc1), convert(fc2), extras))
        self.windows = {layer.extras.window for layer in self.layers}
        self.embedding = convert(weights["model.embed_tokens.weight"])
        self.head = convert(weights["lm_head.weight"])
        self.rotation = rotation_table(config.sequence_length, self.head_dim, config.rope_theta).to(self.device)
        self.work = Work()

    @property
    def weight_bytes(self) -> int:
        """Bytes read from memory for one decoded token: everything but the embedding tables."""
        tensors = [self.head] + [t for layer in self.layers for t in (layer.qkv, layer.o, layer.fc1, layer.fc2)]
        tensors += [layer.extras.gate for layer in self.layers if layer.extras.gate is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def new_cache(self) -> KVCache:
        return KVCache(self.config.n_layers, self.config.n_kv_heads, self.head_dim, self.dtype, self.device)

    @torch.inference_mode()
    def prefill(self, prompts: list[list[int]], cache: KVCache, first_row: int) -> Tensor:
        """Run whole prompts into the cache from first_row on; returns the logits after each one's last token (B, V).

        Prompts are padded on the right. A causal mask is enough: no real token comes after the padding.
        """
        B, T = len(prompts), max(map(len, prompts))
        self.work.prefill_tokens += B * T
        ids_BT = torch.tensor([prompt + [0] * (T - len(prompt)) for prompt in prompts], device=self.device)
        ids_M = ids_BT.view(-1)
        rotation_M1H = self.rotation[:T].repeat(B, 1)[:, None]
        hidden_MD = first_MD = self._norm(F.embedding(ids_M, self.embedding).float())
        for number, layer in enumerate(self.layers):
            hidden_MD = layer.extras.mix(hidden_MD, first_MD)
            q, k, v = self._qkv(hidden_MD, layer, rotation_M1H, ids_M)
            q, k, v = (t.view(B, T, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
            cache.write_prompt(number, first_row, k, v)
            grouped = self.config.n_heads != self.config.n_kv_heads
            mask = windowed_mask(T, layer.extras.window, self.device)
            mixed = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
            hidden_MD = self._finish(hidden_MD, layer, mixed.transpose(1, 2).reshape(B * T, -1))
        ends_B = torch.tensor([row * T + len(prompt) - 1 for row, prompt in enumerate(prompts)], device=self.device)
        return self._logits(hidden_MD[ends_B])

    @torch.inference_mode()
    def decode(self, ids: list[int], cache: KVCache) -> Tensor:
        """Append one token to every row of the cache; returns the logits that follow (B, V)."""
        lengths, B = cache.lengths, len(ids)
        self.work.decode_steps += 1
        self.work.decoded_tokens += B
        positions_B = torch.tensor(lengths, device=self.device)
        position = lengths[0] if min(lengths) == max(lengths) else None
        rows_B = torch.arange(B, device=self.device)
        visible = {window: visible_keys(lengths, window, self.device) for window in self.windows}
        rotation_M1H = self.rotation[positions_B][:, None]
        ids_M = torch.tensor(ids, device=self.device)
        hidden_MD = first_MD = self._norm(F.embedding(ids_M, self.embedding).float())
        for number, layer in enumerate(self.layers):
            hidden_MD = layer.extras.mix(hidden_MD, first_MD)
            q, k, v = self._qkv(hidden_MD, layer, rotation_M1H, ids_M)
            keys, values = cache.write_token(number, rows_B, positions_B, k, v, position)
            # The query heads that share a key-value head take the place of query positions.
            q = q.view(B, self.config.n_kv_heads, -1, self.head_dim)
            oldest, mask = visible[layer.extras.window]
            mixed = F.scaled_dot_product_attention(q, keys[:, :, oldest:], values[:, :, oldest:], attn_mask=mask)
            hidden_MD = self._finish(hidden_MD, layer, mixed.reshape(B, -1))
        for row in range(B):
            lengths[row] += 1
        return self._logits(hidden_MD)

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),), None, self.config.rms_eps)

    def _qkv(
        self, hidden_MD: Tensor, layer: Layer, rotation_M1H: Tensor, ids_M: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated and normed q (M, N, H) and k (M, G, H), and v (M, G, H), in the compute dtype."""
        normed_MD = self._norm(hidden_MD).to(self.dtype)
        heads = F.linear(normed_MD, layer.qkv).view(len(hidden_MD), -1, self.head_dim)
        pairs = torch.view_as_complex(heads[:, : self.n_rotated].float().unflatten(-1, (-1, 2)))
        qk = self._norm(torch.view_as_real(pairs * rotation_M1H).flatten(-2)).to(self.dtype)
        q = layer.extras.sharpen(qk[:, : self.config.n_heads])
        v = layer.extras.add_value_embedding(heads[:, self.n_rotated :], ids_M, normed_MD)
        return q, qk[:, self.config.n_heads :], v

    def _finish(self, hidden_MD: Tensor, layer: Layer, mixed_MD: Tensor) -> Tensor:
        hidden_MD = hidden_MD + F.linear(mixed_MD, layer.o)
        wide = F.linear(self._norm(hidden_MD).to(self.dtype), layer.fc1).relu_().square_()
        return hidden_MD + F.linear(wide, layer.fc2)

    def _logits(self, hidden_MD: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return F.linear(self._norm(hidden_MD).to(self.dtype), self.head).float().div_(cap).tanh_().mul_(cap)


def rotation_table(positions: int, head_dim: int, theta: float) -> Tensor:
    """exp(-i * position * theta^(-2j / head_dim)), complex64 (positions, head_dim / 2): rotation by MINUS the angle."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies
    return torch.complex(angles.cos(), -angles.sin())


def expected_shapes(config: "GPTConfig") -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the model."""
    d, v, m = config.d_model, config.vocab_size, config.mlp_width
    kv = config.n_kv_heads * (d // config.n_heads)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, d), "lm_head.weight": (v, d)}
    for number in range(config.n_layers):
        name = f"model.layers.{number}."
        shapes |= {
            f"{name}self_attn.{part}_proj.weight": (rows, d) for part, rows in zip("qkvo", (d, kv, kv, d), strict=True)
        }
        shapes |= {f"{name}mlp.fc1.weight": (m, d), f"{name}mlp.fc2.weight": (d, m)}
    return shapes | extra_shapes(config)


def check_names(weights: Mapping[str, Tensor], config: "GPTConfig") -> None:
    """ValueError unless the weights are exactly the tensors of this architecture."""
    shapes = expected_shapes(config)
    missing, unmapped = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
    if missing or unmapped:
        raise ValueError(
            f"weights do not belong to this architecture: missing {missing[:5] or 'none'}, without a place "
            f"{unmapped[:5] or 'none'}; next: export a model of the default architecture"
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ValueError(
                f"weights: {name} has shape {tuple(weights[name].shape)}; the configuration asks for {shape}"
            )
