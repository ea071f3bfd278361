"""Step 0, target budget: hours and hardware -> depth, tokens, batch, precision, expected loss, cost.

The inverse problem: cost in, model out. Depth is a small integer, so every candidate is computed and the one with the
least expected loss wins, which at equal compute is the one whose ratio of tokens to scaling parameters (blocks + head)
is nearest the target. The hours are for all stages: what the others need is predicted for each candidate, and
pretraining gets the rest. Left out: gains from a smaller model at inference, other than the limits on latency.
"""

from collections.abc import Callable, Iterable

from pipeline_math.candidate import candidate, largest_rows
from pipeline_math.constants import prior_of
from pipeline_math.feasibility import Shortfall, hours_shortfall, shortfalls
from pipeline_math.forecast import Calibration
from pipeline_math.goal import Goal, Solution, memory_fits
from pipeline_math.layouts import DEFAULT, Layout
from pipeline_math.stage_seconds import Workload, stage_seconds

EVEN_DEPTHS = tuple(range(4, 39, 2))
"""Candidates of the solver; odd depths waste a rounded-up width."""
MOST_TRIALS = 24
"""Times the seconds of pretraining are adjusted to what the other stages leave; three or four are usual."""

WorkOf = Callable[[Solution], Workload]
"""What the other stages are asked to do, where that depends on the plan."""


class InfeasibleError(ValueError):
    """No depth meets every limit. The message says which one fails, by how much, and the nearest plan that works."""

    def __init__(self, lacking: list[Shortfall], nearest: Solution | None, nearest_words: str) -> None:
        self.lacking = lacking
        """Limits that the most nearly possible depth exceeds."""
        self.nearest = nearest
        """The plan once each of them is relaxed just enough, None if that is impossible too."""
        text = "; ".join(shortfall.words for shortfall in lacking)
        super().__init__(f"{text}; nearest feasible plan: {nearest_words}")


def solve(
    goal: Goal,
    layout: Layout = DEFAULT,
    depths: Iterable[int] = EVEN_DEPTHS,
    work: Workload | WorkOf = Workload(),  # noqa: B008 - frozen
    calibration: Calibration | None = None,
) -> Solution:
    """The plan for a goal. InfeasibleError (a ValueError) when no depth meets its limits."""
    known = calibration or prior_of(goal.hardware)
    solutions: list[Solution] = []
    failures: list[list[Shortfall]] = []
    for depth in [goal.depth] if goal.depth is not None else depths:
        lacking = _lacking(goal, layout, depth, work, known)
        if lacking:
            failures.append(lacking)
        else:
            solutions.append(_longest(goal, layout, depth, work, known))
    if solutions:
        return min(solutions, key=lambda found: found.distance)
    if not failures:
        raise ValueError("depths is empty: allowed is at least one depth")
    lacking = min(failures, key=lambda own: (len(own), max((s.excess, s.needed) for s in own)))
    raise InfeasibleError(lacking, *_nearest(goal, layout, lacking, work, known))


def seconds_of_all_stages(found: Solution, work: Workload | WorkOf, calibration: Calibration | None = None) -> float:
    """Most likely seconds of the whole pipeline."""
    stages = stage_seconds(found.as_default_layout, workload_of(work, found), calibration)
    return sum(interval.value for interval in stages.values())


def workload_of(work: Workload | WorkOf, found: Solution) -> Workload:
    """The workload of a plan."""
    return work if isinstance(work, Workload) else work(found)


def _lacking(goal: Goal, layout: Layout, depth: int, work: Workload | WorkOf, known: Calibration) -> list[Shortfall]:
    """Limits that a depth exceeds even with the shortest pretraining there is."""
    shortest = candidate(goal, layout, depth, 0.0, known)
    if goal.depth is not None and goal.train_tokens is not None:
        needed = 0.0 if goal.hours else shortest.steps * shortest.step_seconds  # nothing is free: a warning is enough
    elif goal.pretrain_share is not None:
        needed = 0.0 if goal.hours else shortest.step_seconds / goal.pretrain_share
    else:
        needed = seconds_of_all_stages(shortest, work, known)
    lacking = shortfalls(goal, layout, depth, known)
    return [*lacking, hours_shortfall(goal, shortest, needed / 3600.0)] if needed > goal.hours * 3600.0 else lacking


def _longest(goal: Goal, layout: Layout, depth: int, work: Workload | WorkOf, known: Calibration) -> Solution:
    """The longest pretraining of a depth that leaves the other stages their time, which grows with its tokens."""
    budget = goal.hours * 3600.0
    if goal.train_tokens is not None or goal.pretrain_share is not None:
        return candidate(goal, layout, depth, budget * (goal.pretrain_share or 0.0), known)

    def tried(pretrain_seconds: float) -> tuple[Solution, float]:
        found = candidate(goal, layout, depth, pretrain_seconds, known)
        return found, budget - seconds_of_all_stages(found, work, known)

    best, spare = tried(0.0)
    low, high = best.steps * best.step_seconds, budget
    found, spare_high = tried(high)
    while spare_high >= 0:  # a calibration may know stages to be faster than their steps add up to
        best, low, spare, high = found, high, spare_high, 2.0 * high
        found, spare_high = tried(high)
    # Seconds of all stages grow almost linearly with those of pretraining: interpolate, and halve where that is slow.
    for trial in range(MOST_TRIALS):
        if spare < best.step_seconds or high - low < best.step_seconds:
            break
        guess = (low + high) / 2.0 if trial % 3 == 2 else low + (high - low) * spare / (spare - spare_high)
        found, rest = tried(guess)
        if rest >= 0:
            best, low, spare = found, guess, rest
        else:
            high, spare_high = guess, rest
    return best


def _nearest(
    goal: Goal, layout: Layout, lacking: list[Shortfall], work: Workload | WorkOf, known: Calibration
) -> tuple[Solution | None, str]:
    """(the plan with every lacking limit relaxed just enough, what that takes): None if that is not enough."""
    depth, changes = lacking[0].depth, {shortfall.name: shortfall for shortfall in lacking}
    for _ in range(2):  # twice: more memory allows other micro-batches, and those need other hours
        for shortfall in lacking:
            goal = shortfall.relaxed(goal)
        lacking = _lacking(goal, layout, depth, work, known)
        changes |= {shortfall.name: shortfall for shortfall in lacking}
    if lacking:
        return None, "none; no change of these limits alone is enough"
    found = _longest(goal, layout, depth, work, known)
    remedies = " and ".join(shortfall.remedy() for shortfall in changes.values())
    return found, (
        f"with {remedies}: depth {depth}, {found.train_tokens:,} tokens, "
        f"{found.bits_per_byte.value:.3f} bits/byte expected"
    )


__all__ = [
    "EVEN_DEPTHS",
    "Goal",
    "InfeasibleError",
    "Solution",
    "WorkOf",
    "largest_rows",
    "memory_fits",
    "seconds_of_all_stages",
    "solve",
    "workload_of",
]
