"""Statistics and thresholds."""

import polars as pl
import pytest

from tasks.corpus.quality import RULES, STATISTICS, Thresholds, add_statistics, judge

TEXT = "Two words, 12 34!\nTwo words, 12 34!\n\n# {x}"


def test_statistics_equal_a_plain_python_count() -> None:
    row = add_statistics(pl.DataFrame({"text": [TEXT, "", "ünï 東京"], "domain": ["d"] * 3}))
    words, visible = TEXT.split(), [c for c in TEXT if not c.isspace()]
    first = row.row(0, named=True)
    assert first["characters"] == len(TEXT)
    assert first["words"] == len(words)
    assert first["mean_word_characters"] == pytest.approx(len(visible) / len(words))
    letters = [w for w in words if any(c.isalpha() for c in w)]
    assert first["alphabetic_word_fraction"] == pytest.approx(len(letters) / len(words))
    assert first["symbol_fraction"] == pytest.approx(3 / len(visible))  # # { }
    assert first["digit_fraction"] == pytest.approx(8 / len(visible))
    assert first["duplicate_line_fraction"] == pytest.approx(1 / 3)
    assert row["alphabetic_word_fraction"].to_list()[1:] == [0.0, 1.0]
    assert row["duplicate_line_fraction"].to_list()[1:] == [0.0, 0.0]


def _statistics(**changes: float) -> pl.DataFrame:
    good = dict.fromkeys(STATISTICS, 0.0) | {
        "characters": 1000.0,
        "words": 150.0,
        "mean_word_characters": 5.0,
        "alphabetic_word_fraction": 1.0,
    }
    return pl.DataFrame([{"domain": "d", **good, **changes}])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.threshold)
def test_each_bound_itself_is_allowed_and_beyond_it_is_rejected(rule) -> None:
    base = Thresholds()
    bound = float(getattr(base, rule.threshold))
    assert judge(_statistics(**{rule.statistic: bound}), base, {}).row(0) == (None, None, None)
    beyond = bound - 0.01 if rule.is_minimum else bound + 0.01
    verdict = judge(_statistics(**{rule.statistic: beyond}), base, {}).row(0)
    assert verdict == (rule.threshold, pytest.approx(beyond), bound)


def test_a_domain_may_have_its_own_threshold() -> None:
    low = Thresholds(min_words=5)
    short = _statistics(words=10.0)
    assert judge(short, Thresholds(), {"d": low})["reason"].to_list() == [None]
    assert judge(short, Thresholds(), {"other": low})["reason"].to_list() == ["min_words"]
