"""How long a run goes on: a number of steps, or a wall clock that the number of steps has to follow.

With a wall clock nobody knows the speed beforehand, and the warm-down must still end exactly at the end: the remaining
steps are planned anew from the measured pace, so that the learning rate reaches its final value on time.
"""

import math
import statistics
from collections import deque

from model.train_options import Schedule

_RECENT_STEPS = 64
"""Steps whose median time stands for the pace: long enough to forget a pause, short enough to follow a busy machine."""
_FIRST_PLAN = 3
"""Steps before the first plan: the first ones compile and warm caches."""
_RESERVE_SHARE = 0.005
"""Of the whole time, kept free for the last steps being slower than the median and for the final state."""


class WallClock:
    """Plans the steps of a run that ends after `seconds`, evaluations and saving included.

    Two runs never measure the same pace, so such a run repeats its data order but not its learning rates; a resumed one
    continues with the steps its state was planned with.
    """

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"horizon of {seconds} s; allowed: a positive number of seconds")
        self.seconds = seconds
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._seen = 0

    def add_step(self, seconds: float) -> None:
        """A step took this long; the first ones of a session do not count."""
        self._seen += 1
        if self._seen > _FIRST_PLAN:
            self._recent.append(seconds)

    def plan(self, schedule: Schedule, step: int, used_seconds: float, other_seconds: float) -> Schedule:
        """The schedule from `step` on, `used_seconds` after the start.

        `other_seconds` of what is left go to something else than steps (the evaluation at the end). The steps never
        fall below `step`: a run out of time ends with the step it is at.
        """
        if not self._recent:
            return schedule
        left = self.seconds * (1 - _RESERVE_SHARE) - used_seconds - other_seconds
        steps = step + max(0, math.floor(left / statistics.median(self._recent)))
        return schedule.replanned(max(steps, step, 1), step)
