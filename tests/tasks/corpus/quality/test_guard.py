"""Rules that do nothing, rules that do too much."""

import pytest
import yaml

from tasks._errors import StageError
from tasks.corpus.quality.guard import Guard, check_guard
from tasks.corpus.quality.rules import Quality, resolve

COMMON = resolve(Quality(recipes=(), min_words=20, max_digit_fraction=0.3), {})
DOCUMENTS = {"web": 900, "legal": 100}


def test_rules_that_remove_some_pass() -> None:
    broken = {("web", "min_words"): 1, ("legal", "max_digit_fraction"): 90}  # exactly the allowed share
    check_guard(broken, DOCUMENTS, COMMON, Guard())


def test_an_idle_common_rule_stops_from_the_minimum_of_documents_on() -> None:
    broken = {("web", "min_words"): 1}
    with pytest.raises(StageError, match=r"max_digit_fraction \(0.3\): removes 0 of 1,000 documents \(0.0%\) of all"):
        check_guard(broken, DOCUMENTS, COMMON, Guard(min_documents=1000))
    check_guard(broken, DOCUMENTS, COMMON, Guard(min_documents=1001))


def test_a_rule_of_a_domain_is_judged_by_that_domain() -> None:
    resolved = resolve(Quality(recipes=(), min_words=20), {"legal": {"min_words": 5, "max_code_line_fraction": None}})
    broken = {("web", "min_words"): 3}
    with pytest.raises(
        StageError, match=r"min_words \(5\): removes 0 of 100 documents \(0.0%\) of domain legal"
    ) as error:
        check_guard(broken, DOCUMENTS, resolved, Guard(min_documents=100))
    assert 'allow_idle: ["legal:min_words"]' in str(error.value)
    with pytest.raises(StageError, match=r"min_words \(20\): removes 0 of 900 documents"):
        check_guard({("legal", "min_words"): 3}, DOCUMENTS, resolved, Guard(min_documents=100))


def test_more_than_the_allowed_share_of_a_domain_stops() -> None:
    broken = {("web", "min_words"): 1, ("legal", "max_digit_fraction"): 91}
    with pytest.raises(
        StageError, match=r"max_digit_fraction \(0.3\): removes 91 of 100 documents \(91.0%\) of domain l"
    ):
        check_guard(broken, DOCUMENTS, COMMON, Guard())


def test_all_offenders_are_listed_at_once_with_lines_that_mend_them() -> None:
    guard = Guard(allow_drop=("blog:*",), min_documents=10)
    broken = {("legal", "max_digit_fraction"): 100, ("web", "near_duplicate"): 899}
    with pytest.raises(StageError) as error:
        check_guard(broken, DOCUMENTS, COMMON, guard)
    message = str(error.value)
    assert all(
        part in message for part in ("3 rule(s)", "min_words (20)", "max_digit_fraction (0.3)", "near_duplicate:")
    )
    section = yaml.safe_load(message[message.index("corpus:\n") :])["corpus"]["guard"]
    assert section["allow_drop"] == ["blog:*", "legal:max_digit_fraction", "web:near_duplicate"]
    mended = Guard.model_validate({"min_documents": 10, **section})
    check_guard(broken, DOCUMENTS, COMMON, mended)


@pytest.mark.parametrize("entry", ["*", "min_words", "web:min_words", "web:*"])
def test_each_form_of_allowance_allows(entry: str) -> None:
    broken = {("web", "min_words"): 900, ("legal", "max_digit_fraction"): 1}
    with pytest.raises(StageError):
        check_guard(broken, DOCUMENTS, COMMON, Guard(allow_drop=("legal:min_words",), allow_idle=("*",)))
    check_guard(broken, DOCUMENTS, COMMON, Guard(allow_drop=(entry,)))
    idle = {("legal", "max_digit_fraction"): 1}
    if ":" not in entry:
        check_guard(idle, DOCUMENTS, COMMON, Guard(allow_idle=(entry,)))


def test_nothing_judged_is_nothing_wrong() -> None:
    check_guard({}, {}, COMMON, Guard(min_documents=1))
