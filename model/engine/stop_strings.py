"""Ends a stream of text before the first of several texts, also when one arrives in pieces."""


class StopStrings:
    """Passes text on, holding back only what may be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = stops
        self.hit = False
        self._held = ""

    def push(self, text: str) -> str:
        """Text that is certainly before any stop string. Sets `hit` when one is complete; then nothing follows."""
        if self.hit or not self.stops:
            return "" if self.hit else text
        self._held += text
        found = [place for place in (self._held.find(stop) for stop in self.stops) if place >= 0]
        if found:
            self.hit = True
            passed, self._held = self._held[: min(found)], ""
            return passed
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def flush(self) -> str:
        """What was held back and turned out to be ordinary text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without completing it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
