"""``fedrecon sweep --dry-run``: the cells, how each stands, and how long what is left may take."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from rich.table import Table
from rich.text import Text

from fedrecon_core.errors import RunError
from server.runs.directory import write_text
from server.runs.formatting import plural
from server.sweep.executor import Ended, Workers
from server.sweep.progress import clock
from server.sweep.record import State
from server.sweep.times import Times
from server.sweep.trials import SHOWN_DIGITS, Trial

TRIED_ROUNDS = 3
"""The first is not like the others: files are opened and memory is claimed in it."""


def trial_table(states: Sequence[tuple[Trial, State]], times: Times) -> Table:
    """A row per cell: its labels, its hash, how it stands, and how long it may take."""
    parameters = list(states[0][0].labels)
    table = Table(*parameters, "hash", "state", "time")
    for trial, state in states:
        left = "" if state is State.COMPLETE else clock(times.guess(trial))
        labels = [Text(label) for label in trial.labels.values()]
        table.add_row(*labels, trial.sha256[:SHOWN_DIGITS], state.value, left)
    return table


def tried_rounds(trial: Trial) -> int:
    """How many rounds of ``cell`` are run where its time is not known."""
    return min(TRIED_ROUNDS, trial.config.rounds)


def try_first(trial: Trial, workers: Workers) -> float:
    """Seconds that ``cell`` may take: a few of its rounds are run, aside, and their mean time counted for all of them.

    Raises:
        RunError: they could not be run.
    """
    rounds = tried_rounds(trial)
    with tempfile.TemporaryDirectory(prefix="fedrecon-") as folder:
        path = Path(folder)
        tried = trial.config.model_copy(update={"rounds": rounds, "tracking": dict.fromkeys(trial.config.tracking)})
        write_text(path / "config.yaml", tried.to_yaml())  # trackers would tell others of a run that is none
        began = time.monotonic()
        ended = _ended(path, workers)
        seconds = time.monotonic() - began
        if ended[0].reason:
            raise RunError(f"no time can be estimated: the first rounds of {trial.title} failed: {ended[0].reason}")
        usual = _round_seconds(path / "metrics.jsonl")
    return max(seconds - rounds * usual, 0.0) + trial.config.rounds * usual


def _ended(path: Path, workers: Workers) -> list[Ended]:
    """Run ``path``; whatever interrupts this ends the run as well, before its folder is taken away under it."""
    try:
        workers.start(path)
        while not (ended := workers.ended(1.0)):
            pass
    except BaseException:
        workers.close()
        raise
    return ended


def _round_seconds(metrics: Path) -> float:
    """The mean time of the rounds after the first, from what the run says of training and evaluation."""
    rounds: dict[int, float] = {}
    for line in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()):
        if line["split"] != "test":
            spent = sum(value for key, value in line.items() if key.endswith("_seconds"))
            rounds[line["round"]] = rounds.get(line["round"], 0.0) + spent
    return fmean([seconds for number, seconds in rounds.items() if number > 1] or list(rounds.values()))


def estimate(states: Sequence[tuple[Trial, State]], times: Times, make: Callable[[], Workers]) -> str:
    """How long the cells that are not complete may take with the workers that ``make`` makes, and from what that is
    estimated: from the complete ones or else, tried now and learnt by ``times``, from the first."""
    left = [trial for trial, state in states if state is not State.COMPLETE]
    if not left:
        return "nothing is left to run"
    source = f"the {plural(len(states) - len(left), 'complete cell')}"
    workers = make()
    try:
        if times.guess(left[0]) is None:
            times.learn(left[0], try_first(left[0], workers))
            source = f"{plural(tried_rounds(left[0]), 'round')} of {left[0].title}, run just now"
        each = [times.guess(trial) or 0.0 for trial in left]
        seconds = max(sum(each) / workers.capacity, *each)  # no cell is shared among workers
    finally:
        workers.close()
    told = f"{plural(len(left), 'cell')} left, about {clock(seconds)} with {workers.capacity} at a time"
    return (
        f"{told}; estimated from {source}; a cell that ran with no seed yet is taken to need their mean time per round"
    )
