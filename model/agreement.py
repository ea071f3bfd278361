"""What several ranks do next must be the same on all of them; asking waits for the device, so they ask rarely."""

import torch

from model.ranks import rank_and_world_size, sum_over_ranks

AGREE_SECONDS = 1.0
"""About how often ranks ask each other whether to stop or to save."""


class Agreement:
    """Stop if any rank wants to; for the rest (time limit, saving, when to ask again) the first rank's clock counts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.world_size = rank_and_world_size()
        self._next_step = 0

    def reached(self, step: int, step_seconds: float, stop: bool, late: bool, save: bool) -> tuple[bool, bool, bool]:
        """(stop, late, save) for all ranks before step `step`; nothing at steps between two questions."""
        if self.world_size == 1:
            return stop, late, save
        if step < self._next_step:
            return False, False, False
        pause = max(1.0, AGREE_SECONDS / step_seconds) if step_seconds > 0 else 1.0
        clock = (late, save, pause // 1) if self.rank == 0 else (False, False, 0.0)
        asked = torch.tensor([float(value) for value in (stop, *clock)], device=self.device)
        stops, lates, saves, pause = sum_over_ranks(asked).tolist()
        self._next_step = step + int(pause)
        return stops > 0, lates > 0, saves > 0

    def ask_again(self) -> None:
        """At the next step, wherever that is: the run went back to an older one."""
        self._next_step = 0
