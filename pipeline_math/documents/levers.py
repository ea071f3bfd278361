"""What the worked examples and target tables of steps 06 to 10 share: published cases, one line of a target table, and
forecasts with some amounts changed."""

from collections.abc import Mapping

from pipeline_math.constants import CONSTANTS, prior_of
from pipeline_math.documents import public_cases_serving
from pipeline_math.documents.examples import ROW, VOCABULARY, recorded_hardware
from pipeline_math.documents.number import Number, change, compute, constant
from pipeline_math.documents.recorded import newest
from pipeline_math.documents.table import Cell, Quoted, Shown, Table
from pipeline_math.forecast import Constant, total
from pipeline_math.hardware import Hardware
from pipeline_math.model_flops_vram import shape_of_depth
from pipeline_math.stage_terms import Amounts, seconds_terms, step_seconds_terms, terms_of

TARGET_HEADER = ("lever", "cost", "before", "after", "effect")
"""Columns of every table of levers."""
TARGET_ALIGN = "llrrr"
D20 = shape_of_depth(20, VOCABULARY, ROW)
"""The larger example model: ten heads of 128, the size karpathy/nanochat was first published with."""
BF16_BYTES = 2
"""Bytes of one element."""


def case(name: str) -> Number:
    """A published number of `public_cases_serving`."""
    return constant(f"documents.public_cases_serving.{name}", getattr(public_cases_serving, name).unit)


def target(lever: str | Quoted, tag: str, before: Number, after: Number) -> list[Cell]:
    """One line of a table of levers, with the relative change."""
    return [lever, tag, before, after, Shown(change(after, before), "signed .1%")]


def what_if_step_seconds(amounts: Amounts, changed: Mapping[str, float], hardware: Hardware) -> float:
    """Seconds of one step with some amounts changed, constants at the prior of the device class."""
    return total(step_seconds_terms({**amounts, **changed}, hardware), prior_of(hardware))


def what_if_stage_seconds(stage: str, amounts: Amounts, changed: Mapping[str, float], hardware: Hardware) -> float:
    """Seconds of a stage with some amounts changed, constants at the prior of the device class."""
    return total(seconds_terms(stage, {**amounts, **changed}, hardware), prior_of(hardware))


def stage_parts(stage: str) -> Table:
    """What the example run's seconds are made of, by the terms of the forecast: constant, its prior, its share."""
    row = newest(stage, "seconds")
    hardware = recorded_hardware(row.stage, row.quantity)
    lines: list[list[Cell]] = []
    for name, value in seconds_terms(stage, row.amounts, hardware).items():
        if value:
            known = constant_of(hardware, name)
            prior = constant(f"constants.CONSTANTS.{hardware.kind}.{name}", known.unit)
            part = compute(term_share, stage, "seconds", row.amounts, hardware, name, unit="share")
            lines.append([f"`{name}`", Quoted(known.meaning), prior, Shown(part, ".0%")])
    return Table(("constant", "what it pays for", "prior", "share of the forecast"), lines, "llrr")


def term_share(stage: str, quantity: str, amounts: Amounts, hardware: Hardware, name: str) -> float:
    """Share of a forecast quantity that one term makes up, at the prior."""
    terms, known = terms_of(stage, quantity, amounts, hardware) or {}, prior_of(hardware)
    return terms[name] * known.value(name) / total(terms, known)


def constant_of(hardware: Hardware, name: str) -> Constant:
    """The uncertain constant of that name of a device class."""
    return CONSTANTS[hardware.kind][name]


def peak_of(hardware: Hardware) -> Number:
    """FLOP/s of a device class at the precision it trains in."""
    return compute(Hardware.peak_flops, hardware, unit="FLOP/s")


def device(name: str, field: str, unit: str) -> Number:
    """A field of a device class."""
    return constant(f"hardware.HARDWARE.{name}.{field}", unit)
