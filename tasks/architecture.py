"""architecture: freeze the model's shape and state exactly what it costs.

Reads    artifacts/budget/plan.json, hardware.json, artifacts/tokenizer/tokenizer.json (its vocabulary size)
Writes   artifacts/architecture/config.json (model.gpt.GPTConfig), report.json (parameters, FLOPs, bytes, memory)
Promise  parameters and checkpoint bytes in the report equal those of the real model, built without memory; a mismatch
         fails the stage
Limits   training memory is a forecast for the automatic attention path, of research models without the activations of
         their extras; everything else is exact. A research model can be trained and evaluated, not exported
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from model.shape_of_config import extras_of_config
from pipeline_math.hardware import Hardware
from pipeline_math.inference_prefill_decode import kv_bytes_per_token
from pipeline_math.interval import Interval
from pipeline_math.model_flops_vram import (
    FLOPS_CONVENTION,
    ModelShape,
    checkpoint_bytes,
    scaling_parameters,
    shape_of_depth,
    shape_train_flops_per_token,
    total_parameters,
)
from pipeline_math.research_layout import ResearchExtras
from pipeline_math.stage_seconds import memory_forecast
from pipeline_math.static_memory import default_static
from pipeline_math.step_time import uses_explicit_attention
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._params import StageParams

if TYPE_CHECKING:
    from model.gpt import GPTConfig


class Research(StageParams):
    """Extras beyond NanoChatForCausalLM, as published for newer nanochat; a model with any of them is not exported."""

    window_pattern: Annotated[str, Field(pattern="^[SL]+$")] = "SSSL"
    """One letter per layer, repeated: S sees a quarter of the row, L all of it; the last layer always all."""
    value_embeddings: bool = True
    """Embeddings added to the values of every other layer."""
    residual_scalars: bool = True
    """Learned factors of the stream and of the embedding before every layer."""
    qk_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.2
    """Factor on normed queries and keys; 1.0 for none."""


class Params(StageParams):
    """Shape of the model: from the plan (nothing set), from `depth`, or spelt out (d_model, n_layers, n_heads)."""

    depth: Annotated[int, Field(ge=1)] | None = None
    """Layers of the default layout; null takes the plan's."""
    d_model: Annotated[int, Field(ge=2)] | None = None
    """Channels of the residual stream."""
    n_layers: Annotated[int, Field(ge=1)] | None = None
    n_heads: Annotated[int, Field(ge=1)] | None = None
    """Query heads."""
    n_kv_heads: Annotated[int, Field(ge=1)] | None = None
    """Key/value heads, a divisor of the query heads; null means as many."""
    mlp_ratio: Annotated[int, Field(ge=1)] = 4
    """Width of the MLP in multiples of d_model."""
    tokens_per_row: Annotated[int, Field(ge=2)] | None = None
    """Longest row in tokens; null takes the plan's."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute type assumed for memory and KV bytes; auto takes the plan's. Weights are always stored in fp32."""
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """Attention path assumed for memory: a fused kernel or an explicit score matrix; auto follows the device."""
    rope_theta: Annotated[float, Field(gt=1)] = 10000.0
    """Base of the rotary position angles."""
    research: Research | None = None
    """Extras for experiments: true for the published set, a mapping to change parts of it, false or null for none."""

    @field_validator("research", mode="before")
    @classmethod
    def research_is_a_switch_or_a_mapping(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else None
        known = list(Research.model_fields)
        if isinstance(value, dict) and set(value) - set(known):
            unknown = ", ".join(sorted(map(repr, set(value) - set(known))))
            raise ValueError(f"unknown key {unknown} in architecture.research (allowed: {', '.join(known)})")
        return value

    @model_validator(mode="after")
    def shape_is_possible(self) -> "Params":
        spelt_out = {"d_model": self.d_model, "n_layers": self.n_layers, "n_heads": self.n_heads}
        missing = [name for name, value in spelt_out.items() if value is None]
        if self.depth is not None and len(missing) < 3:
            raise ValueError(
                f"architecture.depth={self.depth} and an explicit shape exclude each other; next: set depth or "
                f"{', '.join(spelt_out)} to null"
            )
        if 0 < len(missing) < 3:
            raise ValueError(
                f"an explicit shape needs {', '.join(spelt_out)}; architecture.{missing[0]} is null; "
                f"next: set it, or set all three to null to follow the plan"
            )
        if self.d_model is not None and self.n_heads is not None:
            _check_heads(self.d_model, self.n_heads, self.n_kv_heads or self.n_heads)
        return self


def _check_heads(d_model: int, n_heads: int, n_kv_heads: int) -> None:
    """ValueError unless heads divide the width evenly into even head dimensions and key/value heads divide heads."""
    if d_model % n_heads:
        raise ValueError(
            f"architecture.d_model={d_model} is not divisible by architecture.n_heads={n_heads}; "
            f"use d_model={max(1, round(d_model / n_heads)) * n_heads}"
        )
    if (d_model // n_heads) % 2:
        raise ValueError(
            f"head dimension {d_model // n_heads} (d_model={d_model} / n_heads={n_heads}) is odd; rotary embedding "
            f"turns pairs of channels: use d_model={2 * n_heads * max(1, round(d_model / n_heads / 2))}"
        )
    if n_heads % n_kv_heads:
        allowed = [str(count) for count in range(1, n_heads + 1) if n_heads % count == 0]
        raise ValueError(
            f"architecture.n_kv_heads={n_kv_heads} does not divide n_heads={n_heads}; allowed: {', '.join(allowed)}"
        )


def choose_shape(params: Params, plan: dict[str, Any], vocab_size: int) -> ModelShape:
    """The shape that parameters and plan ask for; StageError where they contradict the tokenizer or each other."""
    if plan["vocab_size"] != vocab_size:
        raise StageError(
            f"architecture: the plan assumes budget.vocab_size={plan['vocab_size']}, but "
            f"artifacts/tokenizer/tokenizer.json holds {vocab_size} tokens; "
            f"next: set budget.vocab_size and tokenizer.vocab_size to the same number"
        )
    tokens_per_row = params.tokens_per_row or plan["tokens_per_row"]
    if params.d_model is not None and params.n_layers is not None and params.n_heads is not None:
        width, layers, heads = params.d_model, params.n_layers, params.n_heads
    elif params.depth is not None:
        default = shape_of_depth(params.depth, vocab_size, tokens_per_row)
        width, layers, heads = default.d_model, default.n_layers, default.n_heads
    else:
        width, layers, heads = plan["d_model"], plan["depth"], plan["n_heads"]
    kv_heads = params.n_kv_heads or (plan["n_kv_heads"] if heads == plan["n_heads"] else heads)
    try:
        _check_heads(width, heads, kv_heads)
    except ValueError as error:
        raise StageError(f"architecture: {error}; next: change params.yaml, section architecture") from None
    return ModelShape(layers, width, heads, kv_heads, params.mlp_ratio * width, vocab_size, tokens_per_row)


def costs_of(
    shape: ModelShape,
    hardware: Hardware,
    precision: str,
    explicit_attention: bool,
    micro_batch_rows: int,
    extras: ResearchExtras | None = None,
) -> dict[str, Any]:
    """Every cost of the shape that later stages and people ask for; units in the names."""
    element_bytes = 4 if precision == "fp32" else 2
    memory, parts = memory_forecast(
        shape, micro_batch_rows, hardware, activation_bytes=element_bytes, explicit_attention=explicit_attention
    )
    costs = {
        "parameters": total_parameters(shape),
        "scaling_parameters": scaling_parameters(shape),
        "train_flops_per_token": shape_train_flops_per_token(shape),
        "flops_convention": FLOPS_CONVENTION,
        "checkpoint_bytes": checkpoint_bytes(shape),
        "kv_bytes_per_token": kv_bytes_per_token(shape.n_layers, shape.n_kv_heads, shape.head_dim, element_bytes),
        "training_memory_bytes": memory.value,
        "training_memory_interval": memory.as_dict(),
        "training_memory_parts": parts,
        "micro_batch_rows": micro_batch_rows,
        "precision": precision,
        "attention": "explicit" if explicit_attention else "sdpa",
    }
    return costs if extras is None else costs | _with_extras(shape, extras, memory)


def _with_extras(shape: ModelShape, extras: ResearchExtras, memory: Interval) -> dict[str, Any]:
    """The costs that the extras of a research model change; the KV cache keeps all positions of windowed layers."""
    static = extras.static_bytes(shape).total_bytes - default_static(shape).total_bytes
    more = Interval(memory.value + static, memory.low + static, memory.high + static)
    return {
        "parameters": extras.total_parameters(shape),
        "scaling_parameters": extras.scaling_parameters(shape),
        "train_flops_per_token": extras.train_flops_per_token(shape),
        "flops_convention": f"{FLOPS_CONVENTION}; T is each layer's window",
        "checkpoint_bytes": 4 * extras.total_parameters(shape),
        "training_memory_bytes": more.value,
        "training_memory_interval": more.as_dict(),
        "research_parameters": sum(extras.extra_parameters(shape).values()),
    }


def built_parameters(config: "GPTConfig") -> tuple[int, int]:
    """(parameters, bytes of all fp32 tensors) of the real model, built on the meta device: no memory is used."""
    import torch

    from model.gpt import GPT

    with torch.device("meta"):
        tensors = GPT(config).state_dict()
    elements = sum(tensor.numel() for tensor in tensors.values())
    return elements, 4 * elements


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def run(ctx: StageContext) -> None:
    """Choose the shape, compute its costs, prove the exact ones against the real model, write both files."""
    from model.gpt import GPTConfig
    from model.research import ResearchConfig
    from model.tokenizer import Tokenizer

    params = cast(Params, ctx.params)
    plan = _read_json(ctx.input("artifacts/budget/plan.json"))
    tokenizer = Tokenizer.from_file(ctx.input("artifacts/tokenizer/tokenizer.json"))
    shape = choose_shape(params, plan, tokenizer.vocab_size)
    config = GPTConfig(
        vocab_size=shape.vocab_size,
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        mlp_width=shape.mlp_width,
        sequence_length=shape.tokens_per_row,
        rope_theta=params.rope_theta,
        attention=params.attention,
        compute_dtype={"auto": "auto", "bf16": "bfloat16", "fp32": "float32"}[params.precision],
        research=ResearchConfig(**params.research.model_dump()) if params.research else None,
    )
    precision = plan["precision"] if params.precision == "auto" else params.precision
    hardware = Hardware(**_read_json(ctx.input("artifacts/budget/hardware.json"))["device"])
    automatic = uses_explicit_attention(hardware, shape.tokens_per_row) and precision == "bf16"
    explicit = automatic if params.attention == "auto" else params.attention == "explicit"
    extras = extras_of_config(config)
    costs = costs_of(shape, hardware, precision, explicit, plan["micro_batch_rows"], extras)
    parameters, tensor_bytes = built_parameters(config)
    for name, measured in (("parameters", parameters), ("checkpoint_bytes", tensor_bytes)):
        ctx.predict(name, costs[name], costs[name], costs[name])
        ctx.measure(name, measured)
        if measured != costs[name]:
            raise RuntimeError(f"architecture: {name} predicted {costs[name]}, the built model has {measured}")
    config.to_json(ctx.out / "config.json")
    text = json.dumps(costs, indent=2, sort_keys=True) + "\n"
    (ctx.out / "report.json").write_text(text, encoding="utf-8")
    ctx.note(
        f"{shape.n_layers} layers x {shape.d_model}, {parameters:,} parameters, "
        f"{costs['train_flops_per_token']:.4g} FLOP/token ({costs['flops_convention']})"
    )
    if config.research:
        ctx.note(
            f"research model ({', '.join(config.research.extras())}): the stage export will refuse it; "
            f"`dvc repro gate` trains and judges it"
        )
    ctx.measure("train_flops_per_token", costs["train_flops_per_token"])
    ctx.count(**vars(shape))
    ctx.report(**{name: value for name, value in costs.items() if isinstance(value, int | float | str)})
