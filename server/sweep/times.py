"""How long cells take: what is known of some tells what to expect of the others."""

from __future__ import annotations

from statistics import fmean

from server.sweep.trials import Trial


class Times:
    """Seconds of cells that have ended, by family: cells that differ in the seed alone take about as long."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, ...], list[float]] = {}
        self._per_round: list[float] = []

    def learn(self, trial: Trial, seconds: float) -> None:
        """``cell`` took ``seconds`` from its first round to its last."""
        self._seconds.setdefault(trial.family, []).append(seconds)
        self._per_round.append(seconds / trial.config.rounds)

    def known(self, trial: Trial) -> float | None:
        """The mean of the cells that differ from ``cell`` in the seed alone; None where none has ended."""
        found = self._seconds.get(trial.family)
        return fmean(found) if found else None

    def guess(self, trial: Trial) -> float | None:
        """As ``known`` or, without any of the family, the mean of a round of all that has ended, times the rounds."""
        known = self.known(trial)
        if known is not None or not self._per_round:
            return known
        return fmean(self._per_round) * trial.config.rounds
