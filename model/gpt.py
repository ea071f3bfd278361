"""The transformer: exactly the function transformers calls NanoChatForCausalLM, so that a checkpoint exports by name.

Per layer h += Wo attention(norm(h)), h += W2 relu(W1 norm(h))^2. norm divides by the root mean square and has no
weight; queries and keys are rotated first and normalised after; logits are 15 tanh(z / 15); head and embedding are not
tied. With `config.research` set it is another function, which cannot be exported by name: see model/research.py.

Shape legend: B rows, T tokens, D model width, V vocabulary, N query heads, M key/value heads, H head dim, L layers.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import PATHS, causal_attention
from model.float8 import fits_float8, float8_linear
from model.gpt_config import GPTConfig
from model.norms import rms_norm, rope_tables, rotated_norm
from model.precision import compute_dtype
from model.research import (
    GATE_CHANNELS,
    add_value_embedding,
    has_value_embedding,
    initial_scalars,
    layer_window,
)

__all__ = ["GPT", "GPTConfig"]


class Linear(nn.Linear):
    """A product without bias: the float32 master weight is cast to the input's format on use."""

    float8 = False
    """Training products in eight bits where they fit; without gradients (evaluation) never."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.float8 and torch.is_grad_enabled() and fits_float8(x, self.weight):
            return float8_linear(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))


class SquaredReLU(torch.autograd.Function):
    """relu(x)^2 that keeps only relu(x) for the backward pass: d/dx = 2 relu(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return torch.addcmul(positive.new_zeros(()), grads[0], positive, value=2)  # one pass over memory, not two


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, path: str, layer: int) -> None:
        super().__init__()
        self.config, self.path = config, path
        self.window = layer_window(config.research, layer, config.n_layers, config.sequence_length)
        self.score_scale = config.research.qk_scale**2 if config.research else 1.0
        kv_width = config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, kv_width)
        self.v_proj = Linear(config.d_model, kv_width)
        self.o_proj = Linear(config.d_model, config.d_model)
        self.has_value_embedding = has_value_embedding(config.research, layer, config.n_layers)
        if self.has_value_embedding:
            self.value_embed = nn.Embedding(config.vocab_size, kv_width)
            self.value_gate = Linear(GATE_CHANNELS, config.n_kv_heads)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, ids_BT: Tensor | None = None) -> Tensor:
        B, T, D = x_BTD.shape
        N, M, H = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        q_BTNH = self.q_proj(x_BTD).view(B, T, N, H)
        k_BTMH = self.k_proj(x_BTD).view(B, T, M, H)
        v_BTMH = self.v_proj(x_BTD).view(B, T, M, H)
        if self.has_value_embedding:
            assert ids_BT is not None
            embedded_BTMH = F.embedding(ids_BT, self.value_embed.weight).to(x_BTD.dtype).view(B, T, M, H)
            v_BTMH = add_value_embedding(v_BTMH, embedded_BTMH, self.value_gate(x_BTD[..., :GATE_CHANNELS]))
        q_BTNH, k_BTMH = (rotated_norm(x, cos, sin, self.config.rms_eps) for x in (q_BTNH, k_BTMH))
        if self.score_scale != 1.0:
            q_BTNH = q_BTNH * self.score_scale  # both factors on the queries: the same scores, one pass over memory
        heads = q_BTNH.transpose(1, 2), k_BTMH.transpose(1, 2), v_BTMH.transpose(1, 2)
        out_BNTH = causal_attention(*heads, self.path, window=self.window)
        return self.o_proj(out_BNTH.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_model, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.fc2(SquaredReLU.apply(self.fc1(x_BTD)))


class Layer(nn.Module):
    def __init__(self, config: GPTConfig, attention: str, layer: int) -> None:
        super().__init__()
        self.rms_eps = config.rms_eps
        self.self_attn = Attention(config, attention, layer)
        self.mlp = MLP(config)

    def forward(
        self,
        x_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        ids_BT: Tensor | None = None,
        first_BTD: Tensor | None = None,
        scalars: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The last three are those of research models: ids for value embeddings, x0 and its scalars (a, b)."""
        if scalars is not None:
            assert first_BTD is not None
            x_BTD = scalars[0] * x_BTD + scalars[1] * first_BTD
        x_BTD = x_BTD + self.self_attn(rms_norm(x_BTD, self.rms_eps), cos, sin, ids_BT)
        return x_BTD + self.mlp(rms_norm(x_BTD, self.rms_eps))


class Trunk(nn.Module):
    """Embedding and layers; named `model` in the checkpoint, as transformers names it."""

    def __init__(self, config: GPTConfig, attention: str) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config, attention, number) for number in range(config.n_layers))
        if config.research is not None and config.research.residual_scalars:
            residual_L, input_L = initial_scalars(config.n_layers)
            self.residual_scalars, self.input_scalars = nn.Parameter(residual_L), nn.Parameter(input_L)


class GPT(nn.Module):
    """The language model. `attention` and `compute_dtype` override the configuration's for this instance.

    `recompute` and `float8` say how training computes and may be changed at any time; no file holds them.
    """

    def __init__(
        self,
        config: GPTConfig,
        attention: str | None = None,
        compute_dtype: str | None = None,
        *,
        recompute: bool = False,
        float8: bool = False,
    ) -> None:
        super().__init__()
        attention, compute_dtype = attention or config.attention, compute_dtype or config.compute_dtype
        if attention not in PATHS:
            raise ValueError(f"attention={attention!r}; allowed: {', '.join(PATHS)}")
        self.config, self.compute_dtype = config, compute_dtype
        self.model = Trunk(config, attention)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        cos, sin = rope_tables(config.head_dim, config.rope_theta, torch.arange(config.sequence_length))
        self.rope_cos = nn.Buffer(cos, persistent=False)
        self.rope_sin = nn.Buffer(sin, persistent=False)
        self.recompute = recompute
        """Keep only the input of every layer for the backward pass and compute the rest of the layer again there."""
        self.float8 = float8

    @property
    def float8(self) -> bool:
        """Are the layers' products computed in eight bits while gradients are? See model/float8.py; the head never."""
        return self._float8

    @float8.setter
    def float8(self, on: bool) -> None:
        self._float8 = on
        for module in self.model.modules():
            if isinstance(module, Linear):
                module.float8 = on

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype_of_products(self) -> torch.dtype:
        """The format activations and products use on the device the weights are on now."""
        return compute_dtype(self.device, self.compute_dtype)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Names of all parameters by what the optimizer does with them; groups of research models may be empty.

        matrices (2-D weights of the layers, gates included), embedding, head, value_embeddings, scalars.
        """
        groups: dict[str, list[str]] = {
            "matrices": [], "embedding": [], "head": [], "value_embeddings": [], "scalars": []
        }  # fmt: skip
        of_module = {"embed_tokens": "embedding", "lm_head": "head", "value_embed": "value_embeddings"}
        for name, parameter in self.named_parameters():
            kind = of_module.get(name.split(".")[-2], "matrices" if parameter.ndim == 2 else "scalars")
            groups[kind].append(name)
        return groups

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every weight from one CPU generator, so that the device does not change them.

        Output projections start at zero (each layer starts as the identity), the head nearly so. Research models draw
        their extras last: what they share with the default model starts the same. Value embeddings start with the
        spread of the value weights, far below the values themselves, and their gates at zero, which is a factor 1.5.
        """
        generator = torch.Generator().manual_seed(seed)
        groups, parameters = self.parameter_groups(), dict(self.named_parameters())
        extras = {*groups["value_embeddings"], *groups["scalars"]}
        for name in sorted(parameters, key=extras.__contains__):  # sorting keeps the order of equals
            parameters[name].copy_(self._drawn(name, parameters[name].shape, generator))

    def _drawn(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        kind, width_std = name.split(".")[-2], self.config.d_model**-0.5
        values = torch.empty(shape)
        if name.endswith("_scalars"):
            residual_L, input_L = initial_scalars(self.config.n_layers)
            return residual_L if name.endswith("residual_scalars") else input_L
        if kind == "embed_tokens":
            return values.normal_(0.0, 0.8, generator=generator)
        if kind == "lm_head":
            return values.normal_(0.0, 0.001, generator=generator)
        if kind in ("o_proj", "fc2", "value_gate"):
            return values.zero_()
        half_width = 3**0.5 * width_std * (0.4 if kind == "fc1" else 1.0)  # uniform has std half_width / sqrt 3
        return values.uniform_(-half_width, half_width, generator=generator)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids -> hidden states after the final norm [B, T, D]; ValueError if a row is longer than the model's."""
        T = ids_BT.size(1)
        if self.config.sequence_length < T:
            raise ValueError(
                f"a row of {T} tokens does not fit sequence_length={self.config.sequence_length}; next: shorten the row"
            )
        cos, sin = self.rope_cos[:T, None], self.rope_sin[:T, None]
        x_BTD = F.embedding(ids_BT, self.model.embed_tokens.weight).to(self.dtype_of_products)
        x_BTD = rms_norm(x_BTD, self.config.rms_eps)
        first_BTD = x_BTD
        for number, layer in enumerate(self.model.layers):
            extras = self._layer_extras(number, ids_BT, first_BTD)
            if self.recompute and torch.is_grad_enabled():  # nothing is random, so no generator's state is kept
                x_BTD = checkpoint(layer, x_BTD, cos, sin, *extras, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = layer(x_BTD, cos, sin, *extras)
        return rms_norm(x_BTD, self.config.rms_eps)

    def _layer_extras(self, number: int, ids_BT: Tensor, first_BTD: Tensor) -> tuple[Any, ...]:
        """What the layers of a research model take besides the stream and the tables; () for the default model."""
        research = self.config.research
        if research is None:
            return ()
        if not research.residual_scalars:
            return (ids_BT,)
        scalars = self.model.residual_scalars[number], self.model.input_scalars[number]
        return ids_BT, first_BTD, scalars

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] in float32, within +-logit_softcap."""
        cap = self.config.logit_softcap
        return cap * torch.tanh(self.lm_head(hidden).float() / cap)
