"""Shapes and machines the worked examples use, and shortcuts to numbers about them."""

from pipeline_math.documents.number import Number, constant
from pipeline_math.documents.recorded import newest
from pipeline_math.hardware import HARDWARE
from pipeline_math.hardware_table import Hardware
from pipeline_math.model_flops_vram import ModelShape, shape_of_depth

VOCABULARY = 32768
"""Vocabulary of the public runs compared with, and of the default profile."""
LARGE_VOCABULARY = 65536
"""Twice that: the largest whose ids fit two bytes."""
ROW = 2048
"""Tokens per row of the same runs."""
DEPTH = 12
"""Depth of the example model: the smallest one with public runs to compare with."""

D12 = shape_of_depth(DEPTH, VOCABULARY, ROW)
"""The example model of the default layout."""


def chosen(name: str, unit: str) -> Number:
    """A constant of this module as a number."""
    return constant(f"documents.examples.{name}", unit)


def published(name: str) -> Number:
    """A published number of `public_cases`."""
    from pipeline_math.documents import public_cases

    return constant(f"documents.public_cases.{name}", getattr(public_cases, name).unit)


def recorded_shape(stage: str, quantity: str = "step_seconds") -> ModelShape:
    """Shape of the model in the example run of a training stage."""
    amounts = newest(stage, quantity).amounts
    names = ("n_layers", "d_model", "n_heads", "n_kv_heads", "mlp_width", "vocab_size", "tokens_per_row")
    return ModelShape(*(int(amounts[name]) for name in names))


def recorded_hardware(stage: str, quantity: str = "step_seconds") -> Hardware:
    """Device class the example run of a stage was planned for; a probed machine ("auto") counts as cpu-2core."""
    return HARDWARE.get(newest(stage, quantity).hardware, HARDWARE["cpu-2core"])
