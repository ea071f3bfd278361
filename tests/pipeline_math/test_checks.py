"""Bad numbers are refused by name: walked over every public function and dataclass of the step modules.

A new function is walked without being listed; one with a new argument needs a valid value in `valid_arguments`.
"""

import contextlib
import dataclasses
import importlib
import inspect
import itertools
import math
import typing

import pytest

from pipeline_math import checks
from tests.pipeline_math.valid_arguments import VALID, VALID_HERE

MODULES = (
    "chat_latency",
    "data_filtering",
    "evaluation_cost",
    "export_cost",
    "inference_prefill_decode",
    "packing_io",
    "sft_step",
    "statistics",
    "tokenizer_cost",
)
NEGATIVE_ALLOWED = {"correlation", "values", "first", "second", "numerators"}
"""Differences and correlations may be negative; everything else counts, measures or shares something."""
RESULTS = {"DecodePoint", "Estimate", "RlStepSeconds", "SftCost", "TrainingAnchor"}
"""Dataclasses that functions return (or a table holds): they carry what was computed from checked numbers."""
SHARES = {"accuracy", "baseline", "confidence", "mfu", "pass_rate", "power", "probability", "quantile", "rate"} | {
    "significance",
    "similarity",
    "threshold",
}
"""Arguments from 0 to 1, beside those whose name ends in _share."""


def _public():
    for module_name in MODULES:
        module = importlib.import_module(f"pipeline_math.{module_name}")
        for name, member in inspect.getmembers(module, callable):
            if (
                not name.startswith("_")
                and getattr(member, "__module__", "") == module.__name__
                and name not in RESULTS
            ):
                yield pytest.param(member, id=f"{module_name}.{name}")


PUBLIC = list(_public())
EVERY = pytest.mark.parametrize("function", PUBLIC)


def _arguments(function):
    """(valid arguments by name, names of the numeric ones, names of those that are series of numbers)."""
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    valid = {name: VALID_HERE.get((function.__name__, name), VALID.get(name)) for name in parameters}
    unknown = [name for name in parameters if (function.__name__, name) not in VALID_HERE and name not in VALID]
    assert not unknown, f"{function.__name__}: VALID has no value for {unknown}"
    numeric = [name for name in parameters if hints[name] in (int, float)]
    series = [
        name
        for name in parameters
        if set(typing.get_args(hints[name])) & {int, float} and isinstance(valid[name], list)
    ]
    return valid, numeric, series


def _numbers(result):
    if dataclasses.is_dataclass(result):
        result = dataclasses.astuple(result)
    if isinstance(result, list | tuple):
        return [number for part in result for number in _numbers(part)]
    return [result] if isinstance(result, int | float) else []


def test_the_walk_meets_every_kind_of_function():
    assert len(PUBLIC) > 100
    assert {len(_arguments(parameter.values[0])[2]) > 0 for parameter in PUBLIC} == {True, False}


@EVERY
def test_valid_arguments_give_finite_numbers(function):
    result = function(**_arguments(function)[0])
    assert all(math.isfinite(number) for number in _numbers(result))


@EVERY
def test_bad_numbers_are_refused_by_name(function):
    valid, numeric, series = _arguments(function)
    for name in numeric:
        negative = -1.5 if name in NEGATIVE_ALLOWED else -1
        for bad in (math.nan, math.inf, -math.inf, negative):
            with pytest.raises(ValueError, match=name):
                function(**valid | {name: bad})
    for name in series:
        for bad in (math.nan, math.inf) if name in NEGATIVE_ALLOWED else (math.nan, math.inf, -1):
            with pytest.raises(ValueError, match=r"=|\[0\]"):
                function(**valid | {name: [bad, *valid[name][1:]]})


@EVERY
def test_shares_above_one_are_refused_by_name(function):
    valid, numeric, _ = _arguments(function)
    for name in numeric:
        if name in SHARES or name.endswith("_share"):
            with pytest.raises(ValueError, match=name):
                function(**valid | {name: 1.5})


@EVERY
def test_zero_and_one_give_a_finite_number_or_a_refusal(function):
    """Never ZeroDivisionError, never NaN: a count of nothing or a share of all is refused where the formula fails."""
    valid, numeric, _ = _arguments(function)
    for name, edge in itertools.product(numeric, (0, 1)):
        with contextlib.suppress(ValueError):
            result = function(**valid | {name: edge})
            assert all(math.isfinite(number) for number in _numbers(result)), f"{name}={edge}"


@EVERY
def test_empty_series_are_refused(function):
    """A mean, an interval or a score of nothing means nothing."""
    valid, _, series = _arguments(function)
    for name in series:
        if function.__name__ == "throughput_curve":  # no batch, no point
            assert function(**valid | {name: []}) == []
        else:
            with pytest.raises(ValueError, match="allowed"):
                function(**valid | {name: []})


def test_checks_name_the_value_and_what_is_allowed():
    for check, good, bad in (
        (checks.positive, 0.5, 0),
        (checks.not_negative, 0, -0.1),
        (checks.share, 1, 1.01),
        (checks.whole, 0, 0.5),
    ):
        check(tokens=good)
        with pytest.raises(ValueError, match=rf"tokens={bad}: allowed are"):
            check(tokens=bad)
    with pytest.raises(ValueError, match="at least 2"):
        checks.whole(2, tokens=1)


def test_checked_functions_keep_their_name_and_signature():
    @checks.checked
    def area(width: float, height: float = 2.0, unit: str = "m") -> float:
        """Width times height."""
        return width * height

    assert area(3.0) == 6.0
    assert (area.__name__, area.__doc__) == ("area", "Width times height.")
    assert list(inspect.signature(area).parameters) == ["width", "height", "unit"]
    with pytest.raises(ValueError, match="height=nan"):
        area(1.0, math.nan)
