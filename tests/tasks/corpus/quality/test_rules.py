"""Recipes, thresholds per domain, verdicts."""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks._errors import StageError
from tasks.corpus.quality.recipes import RECIPES, merge
from tasks.corpus.quality.rules import RULE_NAMES, RULES, Quality, Resolved, Thresholds, judge, resolve
from tasks.corpus.quality.statistics import STATISTICS


def _frame(count: int = 1, domain: str = "d", **values: Any) -> pl.DataFrame:
    """Documents without a statistic, which break no rule, but for the given values."""
    columns = dict.fromkeys([*STATISTICS, "language_score"], None) | values
    schema = dict.fromkeys([*STATISTICS, "language_score"], pl.Float32)
    return pl.DataFrame([{"domain": domain, "language": None, **columns}] * count, schema_overrides=schema)


def _only(**bounds: Any) -> Resolved:
    return resolve(Quality(recipes=(), **bounds), {})


def test_every_rule_has_a_statistic_and_every_recipe_has_rules() -> None:
    assert {rule.statistic for rule in RULES} <= {*STATISTICS, "language_score"}
    for recipe, bounds in RECIPES.items():
        assert bounds, recipe
        Thresholds.model_validate(bounds)


def test_our_own_recipe_keeps_its_ten_bounds() -> None:
    assert merge(("zero2chat",)) == {
        "min_characters": 160, "max_characters": 2_000_000, "min_words": 20, "min_mean_word_characters": 3.0,
        "max_mean_word_characters": 14.0, "min_alphabetic_word_fraction": 0.6, "max_symbol_fraction": 0.2,
        "max_digit_fraction": 0.3, "max_duplicate_line_fraction": 0.3, "max_duplicate_shingle_fraction": 0.35,
    }  # fmt: skip
    assert resolve(Quality(), {})("any").max_digit_fraction == 0.3


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_bound_itself_is_allowed_and_beyond_it_is_rejected(rule) -> None:
    bound = 0.3  # of which Float32 holds a little more
    resolved = _only(**{rule.name: bound})
    assert judge(_frame(1, "d", **{rule.statistic: bound}), resolved).frame.row(0) == (None, None, None)
    beyond = bound - 0.01 if rule.is_minimum else bound + 0.01
    verdict = judge(_frame(1, "d", **{rule.statistic: beyond}), resolved)
    assert verdict.frame.row(0) == (rule.name, pytest.approx(beyond), bound)
    assert verdict.broken == {("d", rule.name): 1}


def test_the_first_rule_in_order_is_the_reason_and_every_broken_rule_is_counted() -> None:
    resolved = _only(min_words=5, min_characters=100, max_code_line_fraction=0.1)
    frame = pl.concat([_frame(words=1, characters=10, code_line_fraction=1), _frame(2, code_line_fraction=1)])
    verdict = judge(frame, resolved)
    assert verdict.frame["reason"].to_list() == ["min_characters", *["max_code_line_fraction"] * 2]
    assert verdict.broken == {("d", "min_characters"): 1, ("d", "min_words"): 1, ("d", "max_code_line_fraction"): 3}
    assert verdict.documents == {"d": 3}


def test_languages_come_first_and_unknown_ones_are_rejected() -> None:
    resolved = _only(languages=("en", "de"), min_language_score=0.65, min_words=5)
    rows = [("en", 0.9), ("fr", 0.8), ("", 0.0), (None, None), ("de", 0.5)]
    frame = pl.concat(
        [_frame(language=code, language_score=score, words=1 if code == "fr" else 9) for code, score in rows]
    )
    reasons = judge(frame, resolved).frame
    assert reasons["reason"].to_list() == [None, *["languages"] * 3, "min_language_score"]
    assert reasons.row(1) == ("languages", pytest.approx(0.8), None)


def test_a_rule_without_its_column_says_what_to_do() -> None:
    with pytest.raises(StageError, match=r"rule languages needs the column 'language_score'.*next"):
        judge(_frame().drop("language_score"), _only(languages=("en",)))


def test_no_documents_make_an_empty_verdict() -> None:
    verdict = judge(_frame().clear(), resolve(Quality(), {}))
    assert verdict.frame.height == 0 and not verdict.broken and not verdict.documents


def test_the_stricter_recipe_wins_and_own_bounds_win_over_recipes() -> None:
    both = resolve(Quality(recipes=("zero2chat", "gopher", "fineweb")), {})("d")
    assert both.min_alphabetic_word_fraction == 0.8
    assert both.max_duplicate_line_character_fraction == 0.01
    assert both == resolve(Quality(recipes=("fineweb", "gopher", "zero2chat")), {})("d")
    own = resolve(
        Quality(recipes=("zero2chat", "gopher"), min_alphabetic_word_fraction=0.1, max_digit_fraction=None), {}
    )
    assert own("d").min_alphabetic_word_fraction == 0.1
    assert own("d").max_digit_fraction is None


def test_a_domain_changes_bounds_switches_rules_off_or_starts_anew() -> None:
    resolved = resolve(
        Quality(min_words=30),
        {
            "short": {"min_words": 5},
            "code": {"max_symbol_fraction": None},
            "prose": {"recipes": ["fineweb"], "min_words": 7},
        },
    )
    assert (resolved("short").min_words, resolved("short").min_characters) == (5, 160)
    assert (resolved("code").max_symbol_fraction, resolved("code").min_words) == (None, 30)
    assert (resolved("prose").min_words, resolved("prose").min_characters) == (7, None)
    assert resolved("prose").max_short_line_fraction == 0.67
    assert resolved("other") == resolved.base
    assert resolved.own_rules["short"] == {"min_words"}
    assert resolved.own_rules["prose"] == {*RECIPES["fineweb"], "min_words"}
    short = pl.concat([_frame(domain=name, words=10) for name in ("short", "code", "prose", "other")])
    assert judge(short, resolved).frame["reason"].to_list() == [None, "min_words", None, "min_words"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"min_wrods": 5}, "quality_by_domain.legal.*unknown rule 'min_wrods'; closest: min_words"),
        ({"recipes": ["gofer"]}, "quality_by_domain.legal.*recipes.*'gopher', 'c4', 'fineweb' or 'zero2chat'.*'gofer'"),
        ({"max_digit_fraction": 1.5}, "max_digit_fraction.*less than or equal to 1; found 1.5"),
        ({"min_mean_word_characters": 15}, "min_mean_word_characters=15 is above max_mean_word_characters=14"),
    ],
)
def test_a_wrong_domain_section_is_an_error_that_names_it(own: dict, message: str) -> None:
    with pytest.raises(StageError, match=f"(?s){message}"):
        resolve(Quality(), {"legal": own})


def test_a_wrong_common_section_is_an_error_too() -> None:
    with pytest.raises(ValidationError, match="unknown rule 'max_digits'; closest: max_digit_fraction"):
        Quality.model_validate({"max_digits": 0.1})
    with pytest.raises(ValidationError, match=r"min_characters=10 is above max_characters=5"):
        Quality(min_characters=10, max_characters=5)
    with pytest.raises(StageError, match=r"(?s)corpus\.quality.*min_characters=160 is above max_characters=5"):
        resolve(Quality(max_characters=5), {})


values = st.none() | st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_judging_equals_a_plain_loop_in_any_order(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([rule.name for rule in RULES[1:]]), min_size=1, max_size=6, unique=True))
    names = [n for n in names if not (n.startswith("min_") and "max_" + n[4:] in names)]

    def draw() -> dict[str, Any]:
        return {name: data.draw(values, label=name) for name in names}

    resolved = resolve(Quality(recipes=(), **draw()), {"b": draw()})
    rows: list[dict[str, Any]] = [
        {"domain": data.draw(st.sampled_from("abc")), **{name: data.draw(values) for name in STATISTICS}}
        for _ in range(data.draw(st.integers(1, 8)))
    ]
    frame = pl.DataFrame(rows, schema={"domain": pl.String, **dict.fromkeys(STATISTICS, pl.Float32)})
    expected: list[str | None] = []
    broken: Counter[tuple[str, str]] = Counter()
    for row in rows:
        own = resolved(row["domain"])
        hits = []
        for rule in RULES:
            bound, found = getattr(own, rule.name), row.get(rule.statistic)
            if bound is not None and found is not None and (found < bound if rule.is_minimum else found > bound):
                hits.append(rule.name)
        broken.update((row["domain"], name) for name in hits)
        expected.append(min(hits, key=RULE_NAMES.index, default=None))
    verdict = judge(frame, resolved)
    assert verdict.frame["reason"].to_list() == expected
    assert verdict.broken == broken
    order = np.random.default_rng(0).permutation(len(rows))
    again = judge(frame[order], resolved)
    assert again.frame["reason"].to_list() == [expected[i] for i in order]
    assert again.broken == broken
