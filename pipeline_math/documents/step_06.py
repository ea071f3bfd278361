"""Numbers of 06_sft_step_math.md: midtrain, sft and rl."""

from pipeline_math.constants import prior_of
from pipeline_math.documents.examples import D12, recorded_hardware, recorded_shape
from pipeline_math.documents.levers import TARGET_ALIGN, TARGET_HEADER, peak_of, target, what_if_step_seconds
from pipeline_math.documents.number import Number, compute, constant, over, times
from pipeline_math.documents.recorded import amount, ledger_values, measured, newest
from pipeline_math.documents.step_06_rl import public_rl, rl_targets, useful_groups
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.forecast import total
from pipeline_math.hardware import Hardware
from pipeline_math.model_flops_vram import shape_train_flops_per_token
from pipeline_math.pretrain_step import mfu
from pipeline_math.sft_step import (
    flops_per_supervised_token,
    masked_head_flops_saved_per_token,
    supervised_share_of_rows,
)
from pipeline_math.stage_terms import Amounts, step_seconds_terms

SUPERVISED_SHARE = 0.3
"""Chosen for the public example: a third of a conversation is what the assistant says."""
ANSWER_TOKENS, CONVERSATION_TOKENS = 40, 128
"""Chosen: supervised and all tokens of one short conversation."""
BATCH_FACTOR = 4
"""Chosen: how much larger the batch of the what-if is."""

STEP_PARTS = {
    "matrix products of the blocks": ("products",),
    "head and loss": ("head_products", "softmax"),
    "attention scores": ("scores", "score_products", "fused_attention"),
    "norms, activations, residuals": ("elementwise",),
    "weights and gradients, once per micro-batch": ("weight_passes",),
    "calls, once per layer and micro-batch": ("layer_calls",),
    "optimizer: orthogonalisation": ("orthogonalisation",),
    "optimizer: passes and calls": ("optimizer_passes", "optimizer_calls"),
    "everything, which is one term on a GPU": ("whole_model", "step_once"),
}
"""Terms of a step, in groups a reader can act on."""


def values() -> dict[str, Number | Table]:
    """Everything the template names."""
    tables = {"stages": _stages(), "parts": _parts(), "useful": useful_groups(), "targets": _targets()}
    return _own() | _public_sft() | public_rl() | tables | ledger_values("midtrain", "sft", "rl")


def step_part(amounts: Amounts, hardware: Hardware, names: tuple[str, ...]) -> float:
    """Share of a step's seconds that the named terms make up; ValueError when the groups miss a term."""
    terms, known = step_seconds_terms(amounts, hardware), prior_of(hardware)
    grouped = {name for group in STEP_PARTS.values() for name in group}
    if missing := sorted(set(terms) - grouped):
        raise ValueError(f"terms in no group of STEP_PARTS: {', '.join(missing)}")
    return sum(terms[name] * known.value(name) for name in names if name in terms) / total(terms, known)


def seconds_per_token(step_seconds: float, batch_tokens: float) -> float:
    """Seconds of a step over its tokens."""
    return step_seconds / batch_tokens


def after_saving(flops: float, saved: float) -> float:
    """FLOP/token that remain."""
    return flops - saved


def _own() -> dict[str, Number | Table]:
    shape = recorded_shape("sft")
    flops = compute(shape_train_flops_per_token, shape, unit="FLOP/token")
    eta = amount("sft", "supervised_share", "step_seconds")
    saved = compute(masked_head_flops_saved_per_token, shape.vocab_size, shape.d_model, eta, unit="FLOP/token")
    return {
        "own_flops": flops,
        "own_eta": eta,
        "own_per_target": compute(flops_per_supervised_token, flops, eta, unit="FLOP/token"),
        "own_head_saved": saved,
        "own_head_share": over(saved, flops, "share"),
        "own_batch": amount("sft", "batch_tokens", "step_seconds"),
        "own_steps": amount("sft", "steps", "step_seconds"),
        "own_step": measured("sft", "step_seconds"),
    }


def _stage_line(stage: str) -> list[Cell]:
    shape, row = recorded_shape(stage), newest(stage, "step_seconds")
    hardware = recorded_hardware(row.stage, row.quantity)
    flops = compute(shape_train_flops_per_token, shape, unit="FLOP/token")
    eta, speed = amount(stage, "supervised_share", "step_seconds"), measured(stage, "tokens_per_second")
    peak = peak_of(hardware)
    return [
        stage,
        eta,
        compute(flops_per_supervised_token, flops, eta, unit="FLOP/token"),
        speed,
        times(speed, eta, "tokens/s"),
        compute(mfu, speed, flops, int(row.amounts["devices"]), peak, unit="share"),
    ]


def _stages() -> Table:
    header = ("stage", "eta", "F / eta", "tokens", "tokens with a target", "MFU")
    return Table(header, [_stage_line(stage) for stage in ("midtrain", "sft")])


def _parts() -> Table:
    row = newest("sft", "step_seconds")
    hardware = recorded_hardware(row.stage, row.quantity)
    shares = {
        name: compute(step_part, row.amounts, hardware, names, unit="share") for name, names in STEP_PARTS.items()
    }
    lines: list[list[Cell]] = [[name, Shown(part, ".1%")] for name, part in shares.items() if part.value > 0]
    return Table(("part of an sft step", "predicted share of its time"), lines)


def _public_sft() -> dict[str, Number | Table]:
    flops = compute(shape_train_flops_per_token, D12, unit="FLOP/token")
    eta = constant("documents.step_06.SUPERVISED_SHARE", "share")
    saved = compute(masked_head_flops_saved_per_token, D12.vocab_size, D12.d_model, eta, unit="FLOP/token")
    return {
        "d12_flops": flops,
        "d12_eta": eta,
        "d12_per_target": compute(flops_per_supervised_token, flops, eta, unit="FLOP/token"),
        "d12_saved": saved,
        "d12_saved_share": over(saved, flops, "share"),
    }


def _targets() -> Table:
    return Table(TARGET_HEADER, [*_sft_targets(), *rl_targets()], TARGET_ALIGN)


def _sft_targets() -> list[list[Cell]]:
    row, shape = newest("sft", "step_seconds"), recorded_shape("sft")
    hardware, amounts = recorded_hardware(row.stage, row.quantity), row.amounts
    flops = compute(shape_train_flops_per_token, shape, unit="FLOP/token")
    eta = amount("sft", "supervised_share", "step_seconds")
    saved = masked_head_flops_saved_per_token(shape.vocab_size, shape.d_model, eta.value)
    masked = compute(what_if_step_seconds, amounts, {}, hardware, unit="s")
    whole = compute(what_if_step_seconds, amounts, {"supervised_share": 1.0}, hardware, unit="s")
    batch = amounts["batch_tokens"]
    larger = {"batch_tokens": BATCH_FACTOR * batch, "micro_batch_rows": BATCH_FACTOR * amounts["micro_batch_rows"]}
    many = compute(what_if_step_seconds, amounts, larger, hardware, unit="s")
    padding = shape.tokens_per_row - CONVERSATION_TOKENS
    alone, packed = (
        compute(supervised_share_of_rows, ANSWER_TOKENS, CONVERSATION_TOKENS, waste, unit="share")
        for waste in (padding, 0)
    )
    return [
        target(
            "no head product for masked positions (FLOPs; done on a CPU)",
            "compute",
            flops,
            compute(after_saving, flops, saved, unit="FLOP/token"),
        ),
        target("the same, predicted seconds of a step", "compute", whole, masked),
        target(
            Quoted(f"{BATCH_FACTOR} times the batch, per token (changes the result)"),
            "compute",
            compute(seconds_per_token, masked, batch, unit="s"),
            compute(seconds_per_token, many, larger["batch_tokens"], unit="s"),
        ),
        target(
            "short conversations packed into rows, not one per row (FLOPs per target)",
            "compute",
            compute(flops_per_supervised_token, flops, alone, unit="FLOP/token"),
            compute(flops_per_supervised_token, flops, packed, unit="FLOP/token"),
        ),
    ]
