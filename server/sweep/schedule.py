"""Which cell runs next, and what becomes of each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrecon_core.errors import describe_error, one_line
from server.sweep.executor import LostError, Workers
from server.sweep.progress import Board, Running
from server.sweep.record import State
from server.sweep.store import SweepDirectory
from server.sweep.times import Times
from server.sweep.trials import Trial
from server.training import checkpoints

LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Failure:
    """A cell that did not complete, and why."""

    trial: Trial
    reason: str


class Schedule:
    """Keeps all workers busy until no cell is left; a failed cell is noted and stops no other."""

    def __init__(self, directory: SweepDirectory, workers: Workers, board: Board) -> None:
        self._directory = directory
        self._workers = workers
        self._board = board
        self._times = board.times
        self._running: dict[Path, Running] = {}
        self._failures: list[Failure] = []

    def run(self, trials: Sequence[Trial]) -> list[Failure]:
        """Run ``cells``; those that failed, in the order in which they did.

        Raises:
            LostError: the workers are gone. What was at work is noted as failed; what waited is as it was.
        """
        self._waiting = list(trials)
        self._show()
        try:
            while self._waiting or self._running:
                self._turn()
        except LostError as error:
            for path in list(self._running):
                self._settle(self._running.pop(path), str(error))
            raise
        self._show()
        return self._failures

    def _turn(self) -> None:
        while self._waiting and len(self._running) < self._workers.capacity:
            self._start(self._next())
        self._show()
        for ended in self._workers.ended(LOOK_SECONDS) if self._running else ():
            self._settle(self._running.pop(ended.path), ended.reason)

    def _next(self) -> Trial:
        """The cell that takes longest, so that the cores end together. Those of which no time is known come first, and
        of them those of a family that is not at work yet: the sooner all are known, the better the order."""
        at_work = {running.trial.family for running in self._running.values()}

        def urgency(trial: Trial) -> tuple[float, bool]:
            known = self._times.known(trial)
            return (math.inf, trial.family not in at_work) if known is None else (known, False)

        trial = max(self._waiting, key=urgency)  # the first of equals
        self._waiting.remove(trial)
        return trial

    def _start(self, trial: Trial) -> None:
        running = Running(trial, self._directory.run_of(trial).path, time.monotonic(), 0)
        try:
            run = self._directory.begin(trial)
            if run.completed():
                return self._settle(running, "")
            running = replace(running, first=checkpoints.newest_round(run.checkpoints))
            self._workers.start(run.path)
        except Exception as error:  # a full disk, a fork without memory, an odd file: the other cells go on
            return self._settle(running, one_line(describe_error(error)))
        # Only now: the first start of all waits until the workers have imported what they need.
        self._running[run.path] = replace(running, since=time.monotonic())
        self._board.started(running)

    def _settle(self, running: Running, reason: str) -> None:
        seconds = time.monotonic() - running.since
        if reason:
            self._failures.append(Failure(running.trial, reason))
            self._directory.note_failure(running.trial, reason, running.round)
        else:  # of a cell that was resumed, its own clock knows the whole
            self._times.learn(running.trial, max(seconds, self._directory.seconds_of(running.trial) or 0.0))
            self._directory.tidy(running.trial)
        self._show()
        self._board.ended(running, reason, seconds)

    def _show(self) -> None:
        self._board.now(self._waiting, list(self._running.values()), self._workers.capacity)


def learn_from_disk(directory: SweepDirectory, states: Sequence[tuple[Trial, State]]) -> Times:
    """The times of the cells that are complete already."""
    times = Times()
    for trial, state in states:
        seconds = directory.seconds_of(trial) if state is State.COMPLETE else None
        if seconds is not None:
            times.learn(trial, seconds)
    return times
