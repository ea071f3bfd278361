"""The transformer: exactly the function transformers calls NanoChatForCausalLM, so that a checkpoint exports by name.

Per layer h += Wo attention(norm(h)), h += W2 relu(W1 norm(h))^2. norm divides by the root mean square and has no
weight; queries and keys are rotated first and normalised after; logits are 15 tanh(z / 15); head and embedding are not
tied.

Shape legend: B rows, T tokens, D model width, V vocabulary, N query heads, M key/value heads, H head dim.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import PATHS, causal_attention
from model.norms import rms_norm, rope_tables, rotated_norm
from model.precision import REQUESTS, compute_dtype


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """Shape of the network. ValueError names the field that cannot work."""

    vocab_size: int
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    mlp_width: int
    sequence_length: int
    """Longest row in tokens (positions)."""
    rope_theta: float = 10000.0
    rms_eps: float = 1e-6
    logit_softcap: float = 15.0
    attention: str = "auto"
    """How training computes attention: one of model.attention.PATHS. No result but rounding depends on it."""
    compute_dtype: str = "auto"
    """Format of the products in training: one of model.precision's names."""

    def __post_init__(self) -> None:
        for name, allowed in (("attention", PATHS), ("compute_dtype", REQUESTS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"model config: {name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for field in dataclasses.fields(self):
            if field.name in ("attention", "compute_dtype"):
                continue
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise ValueError(f"model config: {field.name}={value!r}; allowed: a number above 0")
            if field.type in (int, "int") and not isinstance(value, int):
                raise ValueError(f"model config: {field.name}={value!r}; allowed: a whole number")
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise ValueError(
                f"model config: d_model={self.d_model} over n_heads={self.n_heads} must give an even head dim; "
                f"next: make d_model a multiple of {2 * self.n_heads}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"model config: n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}; "
                f"allowed: {', '.join(str(n) for n in range(1, self.n_heads + 1) if self.n_heads % n == 0)}"
            )

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def from_json(cls, path: Path) -> "GPTConfig":
        """Read a config file; ValueError if a field is missing, unknown or impossible."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a readable model config ({error})") from None
        if not isinstance(values, dict):
            raise ValueError(
                f"{path}: holds a {type(values).__name__}; allowed: an object with the fields of GPTConfig"
            )
        known = {f.name: f.default is dataclasses.MISSING for f in dataclasses.fields(cls)}
        unknown, missing = (
            sorted(set(values) - set(known)),
            sorted(k for k, need in known.items() if need and k not in values),
        )
        if unknown or missing:
            raise ValueError(f"{path}: unknown fields {unknown}, missing fields {missing}; allowed: {', '.join(known)}")
        return cls(**values)

    def to_json(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


class Linear(nn.Linear):
    """A product without bias: the float32 master weight is cast to the input's format on use."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
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
        return (grads[0] * positive).mul_(2)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, path: str) -> None:
        super().__init__()
        self.config, self.path = config, path
        kv_width = config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.d_model, config.d_model)
        self.k_proj = Linear(config.d_model, kv_width)
        self.v_proj = Linear(config.d_model, kv_width)
        self.o_proj = Linear(config.d_model, config.d_model)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        N, M, H = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        q_BTNH = self.q_proj(x_BTD).view(B, T, N, H)
        k_BTMH = self.k_proj(x_BTD).view(B, T, M, H)
        v_BTMH = self.v_proj(x_BTD).view(B, T, M, H)
        q_BTNH, k_BTMH = (rotated_norm(x, cos, sin, self.config.rms_eps) for x in (q_BTNH, k_BTMH))
        out_BNTH = causal_attention(q_BTNH.transpose(1, 2), k_BTMH.transpose(1, 2), v_BTMH.transpose(1, 2), self.path)
        return self.o_proj(out_BNTH.transpose(1, 2).reshape(B, T, D))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_model, config.mlp_width)
        self.fc2 = Linear(config.mlp_width, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.fc2(SquaredReLU.apply(self.fc1(x_BTD)))


class Layer(nn.Module):
    def __init__(self, config: GPTConfig, attention: str) -> None:
        super().__init__()
        self.rms_eps = config.rms_eps
        self.self_attn = Attention(config, attention)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x_BTD = x_BTD + self.self_attn(rms_norm(x_BTD, self.rms_eps), cos, sin)
        return x_BTD + self.mlp(rms_norm(x_BTD, self.rms_eps))


class Trunk(nn.Module):
    """Embedding and layers; named `model` in the checkpoint, as transformers names it."""

    def __init__(self, config: GPTConfig, attention: str) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config, attention) for _ in range(config.n_layers))


class GPT(nn.Module):
    """The language model. `attention` and `compute_dtype` override the configuration's for this instance."""

    def __init__(self, config: GPTConfig, attention: str | None = None, compute_dtype: str | None = None) -> None:
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

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype_of_products(self) -> torch.dtype:
        """The format activations and products use on the device the weights are on now."""
        return compute_dtype(self.device, self.compute_dtype)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw every weight from one CPU generator, so that the device does not change them.

        Output projections start at zero (each layer starts as the identity), the head nearly so.
        """
        generator = torch.Generator().manual_seed(seed)
        width_std = self.config.d_model**-0.5
        for name, weight in self.named_parameters():
            kind = name.split(".")[-2]
            values = torch.empty(weight.shape)
            if kind == "embed_tokens":
                values.normal_(0.0, 0.8, generator=generator)
            elif kind == "lm_head":
                values.normal_(0.0, 0.001, generator=generator)
            elif kind in ("o_proj", "fc2"):
                values.zero_()
            else:
                half_width = 3**0.5 * width_std * (0.4 if kind == "fc1" else 1.0)  # uniform has std half_width / sqrt 3
                values.uniform_(-half_width, half_width, generator=generator)
            weight.copy_(values)

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
        for layer in self.model.layers:
            x_BTD = layer(x_BTD, cos, sin)
        return rms_norm(x_BTD, self.config.rms_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] in float32, within +-logit_softcap."""
        cap = self.config.logit_softcap
        return cap * torch.tanh(self.lm_head(hidden).float() / cap)
