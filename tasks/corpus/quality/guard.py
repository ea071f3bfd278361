"""A guard against rules that do nothing and rules that do too much: both usually mean a threshold that was not meant.

Covered: every quality rule, over the whole corpus where it comes from the common section, over its domain where the
domain sets it; and, for removing too much, any other reason counted per domain (blocked, near_duplicate, ...).
Not covered: rules that each take less than allowed and together too much; corpus.max_dropped_fraction watches the sum.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from tasks._errors import StageError
from tasks._params import StageParams
from tasks.corpus.quality.rules import RULE_NAMES, Resolved

FEW_DOCUMENTS = 10
"""A domain of fewer may lose all of them unremarked: one document removed of one says nothing about a rule."""


class Guard(StageParams):
    """Section `guard`: what a rule may do unremarked. Entries: `*`, a rule, `domain:rule`, or `domain:*`."""

    max_drop: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a domain's documents that a single rule may remove."""
    min_documents: Annotated[int, Field(ge=1)] = 1000
    """Below this many documents, a rule that removes none says nothing about the rule."""
    allow_idle: tuple[str, ...] = ()
    """Rules that may remove nothing."""
    allow_drop: tuple[str, ...] = ()
    """Rules that may remove more than max_drop."""


class _Finding(NamedTuple):
    rule: str
    domain: str | None
    """None: the whole corpus."""
    broken: int
    judged: int
    idle: bool

    @property
    def entry(self) -> str:
        return self.rule if self.domain is None else f"{self.domain}:{self.rule}"


def check_guard(
    broken: Mapping[tuple[str, str], int], documents: Mapping[str, int], resolved: Resolved, guard: Guard
) -> None:
    """`broken`: (domain, rule) -> documents it applies to, of `documents` of that domain; StageError lists all at once.

    A document counts for every rule it breaks, so that a rule is not idle merely because an earlier one was faster.
    """
    found = [
        *(f for f in _idle(broken, documents, resolved, guard) if not _is_allowed(f, guard.allow_idle)),
        *(f for f in _excessive(broken, documents, guard) if not _is_allowed(f, guard.allow_drop)),
    ]
    if not found:
        return
    lines = [f"  {_describe(finding, resolved, guard)}" for finding in found]
    remedies = []
    for key, chosen in (("allow_idle", [f for f in found if f.idle]), ("allow_drop", [f for f in found if not f.idle])):
        if chosen:
            entries = [*getattr(guard, key), *(finding.entry for finding in chosen)]
            remedies.append(f"    {key}: [{', '.join(_quote(entry) for entry in entries)}]")
    raise StageError(
        f"corpus: {len(found)} rule(s) remove nothing at all, or more than guard.max_drop={guard.max_drop:g} of a "
        f"domain, which usually means a threshold that was not meant:\n"
        + "\n".join(lines)
        + "\nnext: correct these thresholds (null switches a rule off); or, if this is meant, put into params.yaml\n"
        "corpus:\n  guard:\n" + "\n".join(remedies)
    )


def _idle(
    broken: Mapping[tuple[str, str], int], documents: Mapping[str, int], resolved: Resolved, guard: Guard
) -> list[_Finding]:
    found = []
    for rule in RULE_NAMES:
        common = [name for name in sorted(documents) if rule not in resolved.own_rules.get(name, ())]
        common = [name for name in common if getattr(resolved(name), rule) is not None]
        scopes: list[tuple[str | None, list[str]]] = [(None, common)]
        for name in sorted(documents):
            if rule in resolved.own_rules.get(name, ()) and getattr(resolved(name), rule) is not None:
                scopes.append((name, [name]))
        for domain, names in scopes:
            judged, hit = sum(documents[name] for name in names), sum(broken.get((name, rule), 0) for name in names)
            if not hit and judged >= guard.min_documents:
                found.append(_Finding(rule, domain, hit, judged, idle=True))
    return found


def _excessive(broken: Mapping[tuple[str, str], int], documents: Mapping[str, int], guard: Guard) -> list[_Finding]:
    return [
        _Finding(rule, domain, hit, documents[domain], idle=False)
        for (domain, rule), hit in sorted(broken.items())
        if hit > guard.max_drop * documents[domain] and documents[domain] >= FEW_DOCUMENTS
    ]


def _is_allowed(finding: _Finding, allowed: tuple[str, ...]) -> bool:
    return not {"*", finding.rule, finding.entry, f"{finding.domain}:*"}.isdisjoint(allowed)


def _describe(finding: _Finding, resolved: Resolved, guard: Guard) -> str:
    thresholds = resolved.base if finding.domain is None else resolved(finding.domain)
    where = "all domains that share it" if finding.domain is None else f"domain {finding.domain}"
    share = finding.broken / finding.judged
    allowed = "more than 0" if finding.idle else f"at most {guard.max_drop:.0%}"
    bound = f" ({_format(getattr(thresholds, finding.rule))})" if finding.rule in RULE_NAMES else ""
    return (
        f"{finding.rule}{bound}: removes {finding.broken:,} of {finding.judged:,} documents ({share:.1%}) of {where}; "
        f"allowed: {allowed}"
    )


def _format(bound: Any) -> str:
    return f"{bound:.10g}" if isinstance(bound, float) else str(bound)


def _quote(entry: str) -> str:
    return f'"{entry}"'
