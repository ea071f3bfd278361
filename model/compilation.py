"""How a training run computes: path of attention, precision of float32 products, and whether layers are compiled.

`prepare_compute` decides by measuring and applies; `apply` repeats a decision, so that a resumed run computes the same.
Compiled (torch.compile; PyTorch 2, ASPLOS 2024) is one function, the layer, which all layers share: its cost does not
grow with depth. It is used for the one shape of training with gradients; everything else (evaluation, samples, a
micro-batch halved for want of memory) takes the ordinary layer, so that nothing is ever recompiled for a new shape.
"""

import dataclasses
import importlib.util
import os
import shutil
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from model import loss
from model.attention_probe import fastest_attention
from model.gpt import GPT
from model.measured_choices import MeasuredChoices
from model.precision import matmul_precision
from model.ranks import exchange_json
from model.sharding import is_sharded

Note = Callable[[str], None]
EXPECTED_COMPILE_SECONDS = 60.0
"""Where nothing was measured: the first compilation of a layer on two CPU cores, or on a GPU."""
CACHED_COMPILE_SHARE = 0.25
"""Share of that time that a second process needs, which finds the code in the cache folder; on the safe side."""
EXPECTED_GAIN = {"cpu": 0.15, "cuda": 0.3}
"""Where nothing was measured: share of the layers' time that compiling saves, by kind of device."""
PAYS_FACTOR = 1.5
"""The expected saving must be this many times the expected compilation."""
LEAST_GAIN = 0.02
"""A compiled layer that measures less than this much faster is dropped again."""


@dataclasses.dataclass(frozen=True)
class ComputeChoice:
    """Plain values: belongs into the saved state."""

    compiled: bool
    attention: str
    """The path every layer takes: one of model.attention.PATHS, never "auto" unless the model's own is kept."""
    matmul_precision: str
    """For torch.set_float32_matmul_precision."""
    rows: int
    """Rows of the micro-batch that is compiled for."""
    tokens: int
    """Tokens per row of that shape."""
    reasons: tuple[str, ...] = ()
    """Why, for people."""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "ComputeChoice":
        """From JSON. ValueError for unknown or missing fields."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not set(values) == known:
            raise ValueError(f"compute choice with the fields {sorted(values)}; allowed: exactly {sorted(known)}")
        return cls(**values | {"reasons": tuple(values["reasons"])})


def prepare_compute(
    model: GPT,
    device: torch.device,
    *,
    rows: int,
    steps_left: int,
    request: Literal["auto", "on", "off"] = "auto",
    cache_folder: Path | None = None,
    note: Note = lambda text: None,
    micro_batches: int = 1,
    tokens: int | None = None,
    seconds_left: float | None = None,
) -> ComputeChoice:
    """Decide how this model computes on `device`, and apply it.

    `rows` of `tokens` (the model's sequence_length) are one micro-batch, `micro_batches` of them one step. A path of
    attention that the model's configuration names is kept. `request` "auto" compiles where the expected saving over
    `steps_left` (or over `seconds_left`, of a run by the clock) is PAYS_FACTOR times the expected compilation, and
    keeps the result only if it is faster; "on" always; where no compiler is installed the layers stay as they are, with
    a note. Results go to `cache_folder` (also the compiled code). With several processes every one of them calls this,
    the first one decides.
    """
    tokens = tokens or model.config.sequence_length
    path, why = _attention_of(model, device, tokens, cache_folder)
    precision = matmul_precision(device, model.dtype_of_products)
    reasons = (why, f"float32 products: {precision}")
    choice = _of_first_rank(ComputeChoice(False, path, precision, rows, tokens, reasons), device)
    apply(choice, model)
    lacking = "switched off" if request == "off" else _obstacle(model)
    if lacking is None:
        passes = steps_left * micro_batches
        compiled, why = _compile_or_not(model, choice, passes, seconds_left, request, cache_folder, note)
    else:
        compiled, why = False, f"layers not compiled: {lacking}"
        if request != "off":
            note(why)
    choice = dataclasses.replace(choice, compiled=compiled, reasons=(*choice.reasons, why))
    choice = _of_first_rank(choice, device)
    apply(choice, model, cache_folder=cache_folder, note=note)
    return choice


def apply(
    choice: ComputeChoice, model: GPT, *, cache_folder: Path | None = None, note: Note = lambda text: None
) -> None:
    """Switch the model to `choice`; again with another choice switches back. Compiles now, not at the first step."""
    torch.set_float32_matmul_precision(choice.matmul_precision)
    layers = list(_layers(model))
    for layer in layers:
        layer.self_attn.path = choice.attention
    loss.use_fused_blocks(choice.compiled and model.device.type == "cuda")
    shape = (choice.rows, choice.tokens)
    if choice.compiled and all(_compiled_shape(layer) == shape for layer in layers):
        return
    _as_defined(layers)
    if not choice.compiled:
        return
    lacking = _obstacle(model)
    if lacking is not None:
        note(f"layers are not compiled as they were before: {lacking}; results will differ by rounding")
        return
    note("compiling the layers as before: seconds, or a minute where the compiled code is not in the cache")
    _compile_layers(model, choice, cache_folder, note)


def _obstacle(model: GPT) -> str | None:
    # A sharded layer gathers its weights in hooks of the whole model: it cannot be tried out alone.
    return "the model is sharded" if is_sharded(model) else missing_compiler(model.device)


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks on this machine for `device`, in words; None when all is there."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "the package triton is not installed"
    if device.type != "cpu":
        return f"not supported on {device.type}"
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if any(shutil.which(name) for name in names):
        return None
    return f"no C++ compiler ({' or '.join(names)}) is installed; training runs without, a little slower"


def layer_seconds(model: GPT, rows: int, tokens: int, repeats: int = 3) -> float:
    """Least seconds of the forward and backward pass of the first layer as it is now; no gradient is kept."""
    return min(_timed(lambda: _pass_through_layers(model, rows, tokens, 1), model.device) for _ in range(repeats + 1))


def _attention_of(model: GPT, device: torch.device, tokens: int, cache_folder: Path | None) -> tuple[str, str]:
    config, asked = model.config, _layers(model)[0].self_attn.path
    if asked != "auto":
        return asked, f"attention {asked}: as the model has it"
    return fastest_attention(
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        tokens=tokens,
        dtype=model.dtype_of_products,
        device=device,
        cache_folder=cache_folder,
    )


def _compile_or_not(
    model: GPT,
    choice: ComputeChoice,
    micro_batches_left: int,
    seconds_left: float | None,
    request: str,
    cache_folder: Path | None,
    note: Note,
) -> tuple[bool, str]:
    """Estimate, compile if it should pay, measure, and keep what is faster."""
    device = model.device
    choices = MeasuredChoices(cache_folder)
    config = dataclasses.asdict(model.config) | {"vocab_size": 0, "n_layers": 0}
    question = f"layer of {config}, {choice.rows} x {choice.tokens}, {model.dtype_of_products}, {choice.attention}"
    key = choices.key(question, device)
    known = choices.get(key) or {}
    plain_seconds = layer_seconds(model, choice.rows, choice.tokens)
    gain = float(known.get("gain", EXPECTED_GAIN.get(device.type, 0.0)))
    compile_seconds = float(known.get("next_compile_seconds", EXPECTED_COMPILE_SECONDS))
    spent = plain_seconds * len(_layers(model)) * micro_batches_left if seconds_left is None else seconds_left
    saving = spent * (gain if gain >= LEAST_GAIN else 0.0)
    figures = f"expected to save {saving:.0f} s of this run and to take {compile_seconds:.0f} s"
    if request == "auto" and saving <= PAYS_FACTOR * compile_seconds:
        return False, f"layers not compiled: {figures}"
    note(f"compiling the layers, about {compile_seconds:.0f} s; {figures}")
    started = time.perf_counter()
    error = _compile_layers(model, choice, cache_folder, note)
    if error is not None:
        return False, f"layers not compiled: {error}"
    took = time.perf_counter() - started
    compiled_seconds = layer_seconds(model, choice.rows, choice.tokens)
    measured = 1 - compiled_seconds / plain_seconds
    # The first time fills the cache; what the next will take was measured only if this one already found it filled.
    following = took if known else took * CACHED_COMPILE_SHARE
    choices.put(key, {"gain": round(measured, 3), "next_compile_seconds": round(following, 1)})
    text = (
        f"a layer takes {1e3 * compiled_seconds:.1f} ms compiled, {1e3 * plain_seconds:.1f} ms without; "
        f"compiled in {took:.0f} s"
    )
    if request == "auto" and measured < LEAST_GAIN:
        _as_defined(list(_layers(model)))
        return False, f"layers not compiled: {text}"
    note(f"layers compiled: {text}")
    return True, f"layers compiled: {text}"


def _compile_layers(model: GPT, choice: ComputeChoice, cache_folder: Path | None, note: Note) -> str | None:
    """Give every layer the compiled function and run it once; -> what went wrong, with the layers as they were."""
    if cache_folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(cache_folder).resolve() / "inductor"))
    layers = list(_layers(model))
    _as_defined(layers)
    plain = type(layers[0]).forward
    compiled = torch.compile(plain, dynamic=False)
    shape = (choice.rows, choice.tokens)

    def forward(self: Any, x_BTD: Tensor, *rest: Any) -> Tensor:
        if x_BTD.shape[:2] == shape and torch.is_grad_enabled():
            return compiled(self, x_BTD, *rest)
        return plain(self, x_BTD, *rest)

    forward.compiled_shape = shape  # type: ignore[attr-defined]
    for layer in layers:
        layer.forward = types.MethodType(forward, layer)
    try:
        _pass_through_layers(model, *shape, len(layers))
    except RuntimeError as error:  # torch's own errors of compilation and the compiler's are all of this kind
        _as_defined(layers)
        reason = f"compiling failed ({str(error).strip().splitlines()[0][:200]})"
        note(f"{reason}; training goes on without")
        return reason
    return None


def _layers(model: GPT) -> Any:
    return model.model.layers


def _as_defined(layers: list[Any]) -> None:
    for layer in layers:
        layer.__dict__.pop("forward", None)


def _compiled_shape(layer: Any) -> tuple[int, int] | None:
    return getattr(layer.__dict__.get("forward"), "compiled_shape", None)


def _pass_through_layers(model: GPT, rows: int, tokens: int, count: int) -> None:
    """Forward and backward through the first `count` layers on values of no meaning; nothing is kept."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=generator).to(model.device)
    x = torch.randn(rows, tokens, model.config.d_model, generator=generator)
    x = x.to(model.device, model.dtype_of_products).requires_grad_()
    cos, sin = model.rope_cos[:tokens, None], model.rope_sin[:tokens, None]
    with torch.enable_grad():
        out = x
        for number, layer in enumerate(_layers(model)[:count]):
            out = layer(out, cos, sin, *model._layer_extras(number, ids, x))
        weights = [weight for weight in _layers(model)[:count].parameters() if weight.requires_grad]
        torch.autograd.grad(out, [x, *weights], out.detach(), allow_unused=True)


def _timed(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _of_first_rank(choice: ComputeChoice, device: torch.device) -> ComputeChoice:
    """The first process's choice, on every process: ranks that compute differently would differ by rounding."""
    return ComputeChoice.from_values(exchange_json(dataclasses.asdict(choice), device)[0])
