"""Quality rules: thresholds on the statistics of a document, from named recipes, own bounds and per-domain bounds.

Rules written for English prose destroy code, tables and other languages: every bound can differ by domain or be off.
Judging needs the statistics only, so a changed threshold never reads a text again.
"""

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from tasks._errors import StageError
from tasks._params import StageParams, validate
from tasks.corpus.quality.recipes import merge

if TYPE_CHECKING:
    import polars as pl

Bound = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Recipe = Literal["gopher", "c4", "fineweb", "zero2chat"]


class Thresholds(StageParams):
    """A document outside any of these bounds is rejected; the bounds themselves are allowed; null is no rule.

    The first rule broken, in this order, is the reason reported.
    """

    languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Codes of the languages to keep, such as [en, de], as the language identification names them."""
    min_language_score: Fraction | None = None
    """Certainty of the language identified; FineWeb asks 0.65 together with languages: [en]."""
    min_characters: Bound | None = None
    """Characters of the whole text, heading included."""
    max_characters: Bound | None = None
    """Characters of the whole text."""
    min_words: Bound | None = None
    """Words, runs of visible characters, of the whole text."""
    min_mean_word_characters: Bound | None = None
    """Mean characters per word."""
    max_mean_word_characters: Bound | None = None
    """Mean characters per word; qualified names make documentation longer-worded than prose."""
    min_alphabetic_word_fraction: Fraction | None = None
    """Share of words that hold at least one letter of any script."""
    max_symbol_fraction: Fraction | None = None
    """Share of visible characters that are neither letters, marks, numbers nor ordinary punctuation of prose."""
    max_digit_fraction: Fraction | None = None
    """Share of visible characters that are digits: number dumps."""
    max_duplicate_line_fraction: Fraction | None = None
    """Share of lines that repeat an earlier line."""
    max_duplicate_shingle_fraction: Fraction | None = None
    """Share of runs of five words (as deduplication sees them: no case, no punctuation) that repeat an earlier one."""
    min_nonsymbol_words: Bound | None = None
    """Words that hold a letter, mark or number."""
    max_nonsymbol_words: Bound | None = None
    """Words that hold a letter, mark or number."""
    min_mean_nonsymbol_word_characters: Bound | None = None
    """Mean characters of the words that hold a letter, mark or number."""
    max_mean_nonsymbol_word_characters: Bound | None = None
    """Mean characters of the words that hold a letter, mark or number."""
    max_hashes_per_word: Bound | None = None
    """Signs # per word."""
    max_ellipses_per_word: Bound | None = None
    """... and … per word."""
    max_bullet_line_fraction: Fraction | None = None
    """Share of lines that begin with • or -."""
    max_ellipsis_line_fraction: Fraction | None = None
    """Share of lines that end in ... or …."""
    min_stop_words: Bound | None = None
    """How many different words of `the be to of and that have with` occur: English only."""
    max_duplicate_line_character_fraction: Fraction | None = None
    """Characters in lines that repeat an earlier line, of all characters."""
    max_duplicate_paragraph_fraction: Fraction | None = None
    """Share of paragraphs that repeat an earlier one."""
    max_duplicate_paragraph_character_fraction: Fraction | None = None
    """Characters in paragraphs that repeat an earlier one, of all characters."""
    max_top_2gram_character_fraction: Bound | None = None
    """Characters of the most frequent pair of words, times its occurrences, of all characters; 0 if none repeats."""
    max_top_3gram_character_fraction: Bound | None = None
    """The same for three words."""
    max_top_4gram_character_fraction: Bound | None = None
    """The same for four words."""
    max_duplicate_5gram_character_fraction: Fraction | None = None
    """Characters of words inside a run of five words that occurred earlier, each once, of all characters."""
    max_duplicate_6gram_character_fraction: Fraction | None = None
    """The same for six words."""
    max_duplicate_7gram_character_fraction: Fraction | None = None
    """The same for seven words."""
    max_duplicate_8gram_character_fraction: Fraction | None = None
    """The same for eight words."""
    max_duplicate_9gram_character_fraction: Fraction | None = None
    """The same for nine words."""
    max_duplicate_10gram_character_fraction: Fraction | None = None
    """The same for ten words."""
    min_sentences: Bound | None = None
    """Ends of sentences: words that end in a stop, and full stops of scripts that write no space."""
    max_curly_brackets: Bound | None = None
    """Signs {: C4's sign of code."""
    max_lorem_ipsums: Bound | None = None
    """Occurrences of `lorem ipsum`."""
    max_javascript_line_fraction: Fraction | None = None
    """Share of lines that hold `javascript`, in any case."""
    max_policy_line_fraction: Fraction | None = None
    """Share of lines that hold a phrase of cookie banners, in any case."""
    max_unterminated_line_fraction: Fraction | None = None
    """Share of lines without terminal punctuation, or ending in an ellipsis. FineWeb leaves this one of C4 out."""
    max_few_word_line_fraction: Fraction | None = None
    """Share of lines of fewer than three words."""
    max_longest_word_characters: Bound | None = None
    """Characters of the longest word. Scripts without spaces have long ones."""
    min_terminal_line_fraction: Fraction | None = None
    """Share of lines that end in terminal punctuation."""
    max_short_line_fraction: Fraction | None = None
    """Share of lines of at most 30 characters."""
    max_newlines_per_word: Bound | None = None
    """Line ends per word: lists."""
    max_code_line_fraction: Fraction | None = None
    """Share of lines that end in ; { or } or begin with a keyword or sign of code. In no recipe."""

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, values: Any) -> Any:
        unknown = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            close = [difflib.get_close_matches(str(name), cls.model_fields, 3, 0.5) for name in unknown]
            raise ValueError(
                "; ".join(
                    f"unknown rule {name!r}; closest: {', '.join(names) or 'none'}"
                    for name, names in zip(unknown, close, strict=True)
                )
                + "; allowed: the fields of Quality in tasks/corpus/quality/rules.py"
            )
        return values

    @model_validator(mode="after")
    def _minimum_is_below_maximum(self) -> "Thresholds":
        for rule in RULES:
            upper = f"max_{rule.statistic}"
            if rule.is_minimum and upper in Thresholds.model_fields:
                low, high = getattr(self, rule.name), getattr(self, upper)
                if low is not None and high is not None and low > high:
                    raise ValueError(f"{rule.name}={low:g} is above {upper}={high:g}: no document could pass; lower it")
        return self


class Rule(NamedTuple):
    """Which statistic a threshold bounds, and from which side."""

    name: str
    statistic: str
    is_minimum: bool


RULES = tuple(Rule(name, name[4:], name.startswith("min_")) for name in Thresholds.model_fields if name != "languages")
RULE_NAMES = tuple(Thresholds.model_fields)


class Quality(Thresholds):
    """Section `quality`: recipes, and bounds that replace theirs (null switches a rule off)."""

    recipes: tuple[Recipe, ...] = ("zero2chat",)
    """Where recipes bound the same statistic, the stricter bound counts."""

    def own(self) -> dict[str, Any]:
        """The bounds written out, nulls included."""
        return {name: getattr(self, name) for name in RULE_NAMES if name in self.model_fields_set}


class Resolved(NamedTuple):
    """Complete thresholds of every domain; call it with a domain's name."""

    base: Thresholds
    by_domain: dict[str, Thresholds]
    own_rules: dict[str, frozenset[str]]
    """Rules that a domain has from its own section; the guard judges them by that domain alone."""

    def __call__(self, domain: str) -> Thresholds:
        return self.by_domain.get(domain, self.base)


def resolve(base: Quality, by_domain: Mapping[str, "Mapping[str, Any] | Quality"]) -> Resolved:
    """A domain's bounds replace those of `base`; one that names recipes of its own starts from these alone."""
    common = {**merge(base.recipes), **base.own()}
    resolved, own_rules = {}, {}
    for domain in sorted(by_domain):
        where = f"corpus.quality_by_domain.{domain}"
        section = by_domain[domain]
        own = section if isinstance(section, Quality) else validate(Quality, dict(section), where)
        fresh = "recipes" in own.model_fields_set
        bounds = {**(merge(own.recipes) if fresh else {}), **own.own()}
        resolved[domain] = validate(Thresholds, bounds if fresh else {**common, **bounds}, where)
        own_rules[domain] = frozenset(bounds)
    return Resolved(validate(Thresholds, common, "corpus.quality"), resolved, own_rules)


class Verdict(NamedTuple):
    """What the rules say about the documents of one shard."""

    frame: "pl.DataFrame"
    """reason, value, threshold: of the first rule broken, else null. For `languages` the value is the score."""
    broken: Counter[tuple[str, str]]
    """(domain, rule) -> documents that break it, whether or not it is their first."""
    documents: Counter[str]
    """Documents judged, by domain."""


def judge(statistics: "pl.DataFrame", resolved: Resolved) -> Verdict:
    """Columns: domain, statistics.STATISTICS, and language and language_score where rules ask for them."""
    import polars as pl

    names = statistics["domain"].unique().sort().to_list()
    domains = statistics["domain"].cast(pl.Enum(names)).to_physical().to_numpy()
    thresholds = [resolved(name) for name in names]
    height = statistics.height
    first = np.full(height, -1, np.int64)
    value, bound = np.full(height, np.nan), np.full(height, np.nan)
    broken: Counter[tuple[str, str]] = Counter()
    for number, rule in enumerate((Rule("languages", "language_score", True), *RULES)):
        bounds = [getattr(own, rule.name) for own in thresholds]
        if all(limit is None for limit in bounds):
            continue
        found = _column(statistics, rule.statistic, rule.name)
        if rule.name == "languages":
            spoken, limits = _column(statistics, "language", rule.name), np.full(height, np.nan)
            breaks = np.zeros(height, bool)
            for domain, allowed in enumerate(bounds):
                if allowed is not None:
                    breaks |= (domains == domain) & ~spoken.is_in(list(allowed)).fill_null(False).to_numpy()
        else:
            # Statistics are Float32: 3 of 10 lines are a little more than 0.3 unless the bound is rounded likewise.
            # No bound is NaN, which nothing exceeds; so a statistic that is NaN or null breaks no rule.
            limits = np.array([np.nan if limit is None else np.float32(limit) for limit in bounds])[domains]
            figures = found.to_numpy()
            breaks = figures < limits if rule.is_minimum else figures > limits
            limits = np.array([np.nan if limit is None else limit for limit in bounds])[domains]
        new = breaks & (first < 0)
        first[new] = number
        value[new], bound[new] = found.to_numpy()[new], limits[new]
        for domain, count in enumerate(np.bincount(domains[breaks], minlength=len(names)).tolist()):
            if count:
                broken[names[domain], rule.name] = count
    reasons = pl.Series("number", np.where(first < 0, len(RULE_NAMES), first))
    frame = pl.DataFrame(
        {
            "reason": pl.Series([*RULE_NAMES, None], dtype=pl.String).gather(reasons),
            "value": pl.Series(value, nan_to_null=True),
            "threshold": pl.Series(bound, nan_to_null=True),
        }
    )
    documents = Counter(dict(zip(names, np.bincount(domains, minlength=len(names)).tolist(), strict=True)))
    return Verdict(frame, broken, documents)


def _column(statistics: "pl.DataFrame", name: str, rule: str) -> "pl.Series":
    if name not in statistics.columns:
        raise StageError(
            f"corpus: rule {rule} needs the column {name!r}; found: {', '.join(statistics.columns)}; next: switch on "
            f"what measures it, or set corpus.quality.{rule} to null"
        )
    return statistics[name]
