"""Quality rules in two passes: statistics of every text once, thresholds second.

A word is a maximal run of characters without white space (`\\S+`), in every rule. Thresholds can differ per domain,
since rules for prose would remove code, tables and lists.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from tasks._params import StageParams

if TYPE_CHECKING:
    import polars as pl

Fraction = Annotated[float, Field(ge=0, le=1)]


class Thresholds(StageParams):
    """A document outside any of these bounds is rejected; the bounds themselves are allowed."""

    min_characters: Annotated[int, Field(ge=0)] = 160
    """Characters of the whole text, heading included."""
    max_characters: Annotated[int, Field(gt=0)] = 2_000_000
    """Characters of the whole text."""
    min_words: Annotated[int, Field(ge=0)] = 20
    """Words of the whole text."""
    min_mean_word_characters: Annotated[float, Field(ge=0)] = 3.0
    """Mean characters per word."""
    max_mean_word_characters: Annotated[float, Field(gt=0)] = 14.0
    """Mean characters per word; qualified names make documentation longer-worded than prose."""
    min_alphabetic_word_fraction: Fraction = 0.6
    """Share of words that hold at least one letter of any script."""
    max_symbol_fraction: Fraction = 0.2
    """Share of non-space characters that are neither letters, digits, nor ordinary punctuation of prose."""
    max_digit_fraction: Fraction = 0.3
    """Share of non-space characters that are digits: number dumps."""
    max_duplicate_line_fraction: Fraction = 0.3
    """Share of non-blank lines that repeat an earlier line."""
    max_duplicate_shingle_fraction: Fraction = 0.35
    """Share of five-word shingles that repeat an earlier one of the same text."""


class Rule(NamedTuple):
    """Which statistic a threshold bounds, and from which side."""

    threshold: str
    statistic: str
    is_minimum: bool


RULES = tuple(Rule(name, name[4:], name.startswith("min_")) for name in Thresholds.model_fields)
STATISTICS = tuple(dict.fromkeys(rule.statistic for rule in RULES))


def add_statistics(documents: "pl.DataFrame") -> "pl.DataFrame":
    """`documents` with one column per statistic but duplicate_shingle_fraction, which comes from the shingles."""
    import polars as pl

    text = pl.col("text")
    visible = text.str.count_matches(r"\S").cast(pl.Float64)
    lines = pl.col("_lines").list
    return (
        documents.with_columns(
            text.str.len_chars().cast(pl.Float64).alias("characters"),
            text.str.count_matches(r"\S+").cast(pl.Float64).alias("words"),
            visible.alias("_visible"),
            text.str.count_matches(r"\S*\p{L}\S*").alias("_alphabetic"),
            text.str.count_matches(r"[^\p{L}\p{M}\p{N}\s.,;:!?'\"()\-_`]").alias("_symbols"),
            text.str.count_matches(r"\p{Nd}").alias("_digits"),
            text.str.extract_all(r"(?m)^.*\S.*$").alias("_lines"),
        )
        .with_columns(
            (pl.col("_visible") / pl.col("words")).fill_nan(0.0).alias("mean_word_characters"),
            (pl.col("_alphabetic") / pl.col("words")).fill_nan(0.0).alias("alphabetic_word_fraction"),
            (pl.col("_symbols") / pl.col("_visible")).fill_nan(0.0).alias("symbol_fraction"),
            (pl.col("_digits") / pl.col("_visible")).fill_nan(0.0).alias("digit_fraction"),
            ((lines.len() - lines.n_unique()) / lines.len()).fill_nan(0.0).alias("duplicate_line_fraction"),
        )
        .drop("_visible", "_alphabetic", "_symbols", "_digits", "_lines")
    )


def judge(statistics: "pl.DataFrame", base: Thresholds, by_domain: Mapping[str, Thresholds]) -> "pl.DataFrame":
    """reason, value, threshold per document: the first rule it breaks in the order of `Thresholds`, null if none."""
    import polars as pl

    reason, value, bound = pl.lit(None, pl.String), pl.lit(None, pl.Float64), pl.lit(None, pl.Float64)
    for rule in reversed(RULES):
        limit = pl.lit(float(getattr(base, rule.threshold)))
        for domain, thresholds in by_domain.items():
            own = float(getattr(thresholds, rule.threshold))
            limit = pl.when(pl.col("domain") == domain).then(pl.lit(own)).otherwise(limit)
        found = pl.col(rule.statistic)
        broken = found < limit if rule.is_minimum else found > limit
        reason = pl.when(broken).then(pl.lit(rule.threshold)).otherwise(reason)
        value = pl.when(broken).then(found).otherwise(value)
        bound = pl.when(broken).then(limit).otherwise(bound)
    return statistics.select(reason.alias("reason"), value.alias("value"), bound.alias("threshold"))
