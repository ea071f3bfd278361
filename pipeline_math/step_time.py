"""Seconds of one optimizer step, as terms of `forecast`: what is computed, what is moved, what is merely called.

On a GPU one term, all model FLOPs at the class's MFU. On a CPU the components of math: products at the measured peak,
passes over logits, activations, scores and weights at the measured bandwidth, and calls; so that one measured run tells
about other shapes. FLOPs per token: 6 per matmul weight plus attention not halved for causality, except in the scores
of the explicit path, which skips wholly future blocks. Left out: waiting for data, saving, evaluation.
"""

from collections.abc import Mapping

from pipeline_math.constants import noise_of, prior_of
from pipeline_math.forecast import Calibration, forecast
from pipeline_math.hardware import Hardware
from pipeline_math.model_flops_vram import ModelShape, block_parameters, blocked_keys, shape_train_flops_per_token
from pipeline_math.pretrain_step import muon_step_flops

LONGEST_EXPLICIT_ROW = 512
"""Rows up to which a CPU with bf16 products is taken to form the score matrix; a test compares it with the model's own.

ASSUMPTION of a forecast: a run measures the paths (model/attention_probe.py) and takes the fastest, which for longer
rows or fp32 may form scores, too. `explicit_attention` among a stage's amounts overrides this."""
_PASS_BYTES = 4.0


def step_terms(
    hardware: Hardware,
    shape: ModelShape,
    batch_tokens: float,
    micro_batch_rows: float,
    devices: int = 1,
    mfu: float | None = None,
    supervised_share: float = 1.0,
) -> dict[str, float]:
    """Terms of the seconds of one step of `batch_tokens` over all devices, `supervised_share` of them with a target."""
    if hardware.kind == "gpu" or mfu is not None:
        return whole_model_terms(hardware, shape, batch_tokens, devices, mfu)
    return gradient_terms(hardware, shape, batch_tokens, micro_batch_rows, supervised_share) | optimizer_terms(
        hardware, shape
    )


def whole_model_terms(
    hardware: Hardware, shape: ModelShape, batch_tokens: float, devices: int, mfu: float | None
) -> dict[str, float]:
    """F B / (n P MFU), and the once-per-step overhead of a GPU."""
    flops = shape_train_flops_per_token(shape) * batch_tokens
    terms = {"whole_model": flops / (devices * hardware.peak_flops() * (mfu or hardware.mfu))}
    return terms | ({"step_once": 1.0} if hardware.kind == "gpu" else {})


def gradient_terms(
    hardware: Hardware, shape: ModelShape, tokens: float, micro_batch_rows: float, supervised_share: float = 1.0
) -> dict[str, float]:
    """Terms of forward and backward over `tokens` on a CPU."""
    peak, pass_seconds = hardware.peak_flops(), _PASS_BYTES / hardware.bandwidth_bytes_per_second
    blocks = _blocks(shape)
    head = shape.vocab_size * shape.d_model
    micro_batches = max(1.0, tokens / (micro_batch_rows * shape.tokens_per_row))
    supervised = tokens * supervised_share
    terms = {
        "products": 6.0 * blocks * tokens / peak,
        "head_products": 6.0 * head * supervised / peak,
        "softmax": shape.vocab_size * supervised * pass_seconds,
        "elementwise": shape.n_layers * shape.d_model * tokens * pass_seconds,
        "weight_passes": (blocks + 2.0 * head) * micro_batches * pass_seconds,
        "layer_calls": shape.n_layers * micro_batches,
    }
    if uses_explicit_attention(hardware, shape.tokens_per_row):
        attended = blocked_keys(shape.tokens_per_row)
        terms["scores"] = shape.n_layers * shape.n_heads * tokens * attended * pass_seconds
        terms["score_products"] = 12.0 * shape.n_layers * shape.d_model * tokens * attended / peak
    else:
        terms["fused_attention"] = 6.0 * shape.n_layers * shape.d_model * tokens * shape.tokens_per_row / peak
    return terms


def optimizer_terms(hardware: Hardware, shape: ModelShape) -> dict[str, float]:
    """Terms of one update on a CPU: Muon's products and passes over everything."""
    flops = muon_step_flops(shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width)
    weights = _blocks(shape) + 2.0 * shape.vocab_size * shape.d_model
    return {
        "orthogonalisation": flops / hardware.peak_flops(),
        "optimizer_passes": weights * _PASS_BYTES / hardware.bandwidth_bytes_per_second,
        "optimizer_calls": float(shape.n_layers),
        "step_once": 1.0,
    }


def forward_terms(hardware: Hardware, shape: ModelShape, tokens: float, devices: int = 1) -> dict[str, float]:
    """Terms of a forward pass with loss over `tokens`: a third of forward and backward. Empty for no tokens."""
    if not tokens:
        return {}
    if hardware.kind == "gpu":
        terms = whole_model_terms(hardware, shape, tokens, devices, None)
        return {"whole_model": terms["whole_model"] / 3.0}
    rows = max(1.0, min(16.0, tokens / shape.tokens_per_row))
    return scaled(gradient_terms(hardware, shape, tokens, rows), 1.0 / 3.0)


def uses_explicit_attention(hardware: Hardware, tokens_per_row: int) -> bool:
    """True where the model's automatic choice forms the score matrix if nothing was measured."""
    return hardware.kind == "cpu" and hardware.precision() == "bf16" and tokens_per_row <= LONGEST_EXPLICIT_ROW


def training_step_seconds(
    hardware: Hardware,
    shape: ModelShape,
    batch_tokens: int,
    micro_batch_rows: int,
    devices: int = 1,
    mfu: float | None = None,
    calibration: Calibration | None = None,
) -> float:
    """Most likely seconds of one step; `calibration` None takes the prior of the device class."""
    terms = step_terms(hardware, shape, batch_tokens, micro_batch_rows, devices, mfu)
    known = calibration or prior_of(hardware)
    return forecast("pretrain.step_seconds", terms, known, noise_of("step_seconds")).value


def scaled(terms: Mapping[str, float], factor: float) -> dict[str, float]:
    """All amounts times a factor."""
    return {name: amount * factor for name, amount in terms.items()}


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """The sum of several groups of terms."""
    whole: dict[str, float] = {}
    for part in parts:
        for name, amount in part.items():
            whole[name] = whole.get(name, 0.0) + amount
    return whole


def _blocks(shape: ModelShape) -> float:
    return float(block_parameters(shape.n_layers, shape.d_model, shape.n_heads, shape.n_kv_heads, shape.mlp_width))
