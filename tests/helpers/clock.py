"""A stand-in for the module ``time``: waits take no time, and last exactly as long as they should."""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """Time that passes in ``sleep`` alone. Set it as ``time`` of the module under test with ``monkeypatch.setattr``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._planned: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move time on, and call what was planned until then."""
        self.now += seconds
        due = [action for moment, action in self._planned if moment <= self.now]
        self._planned = [(moment, action) for moment, action in self._planned if moment > self.now]
        for action in due:
            action()

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Call ``action`` once ``seconds`` have passed."""
        self._planned.append((self.now + seconds, action))
