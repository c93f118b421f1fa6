"""``fedrecon sweep --dry-run``: the trials with their states, and an estimate of the remaining time."""

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
from server.sweep.executor import Executor
from server.sweep.progress import Times, clock
from server.sweep.record import State
from server.sweep.trials import SHOWN_DIGITS, Trial

TRIED_ROUNDS = 3
"""The first round is slower than the others: files are opened and memory is allocated in it."""


def trial_table(states: Sequence[tuple[Trial, State]], times: Times) -> Table:
    """A row per trial: its labels, its hash, its state, and its estimated time."""
    table = Table(*states[0][0].labels, "hash", "state", "time")
    for trial, state in states:
        left = "" if state is State.COMPLETE else clock(times.estimate(trial))
        labels = [Text(label) for label in trial.labels.values()]
        table.add_row(*labels, trial.sha256[:SHOWN_DIGITS], state.value, left)
    return table


def tried_rounds(trial: Trial) -> int:
    """How many rounds of ``trial`` are run to estimate its time."""
    return min(TRIED_ROUNDS, trial.config.rounds)


def measure_time(trial: Trial, executor: Executor) -> float:
    """Estimate the seconds of ``trial``: run some of its rounds in a temporary folder, and extrapolate their mean time.

    Raises:
        RunError: the rounds failed.
    """
    rounds = tried_rounds(trial)
    # Without trackers: the run is not a result.
    changes = {"rounds": rounds, "tracking": dict.fromkeys(trial.config.tracking)}
    config = trial.config.model_copy(update=changes)
    with tempfile.TemporaryDirectory(prefix="fedrecon-") as folder:
        path = Path(folder)
        write_text(path / "config.yaml", config.to_yaml())
        began = time.monotonic()
        try:
            executor.start(path, config)
            while not (ended := executor.wait(1.0)):
                pass
        except BaseException:  # also after an interrupt the run must end before its folder is deleted
            executor.close()
            raise
        seconds = time.monotonic() - began
        if ended[0].reason:
            raise RunError(f"no time can be estimated: the first rounds of {trial.title} failed: {ended[0].reason}")
        by_round: dict[int, float] = {}
        for line in map(json.loads, (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
            if line["split"] != "test":
                spent = sum(value for key, value in line.items() if key.endswith("_seconds"))
                by_round[line["round"]] = by_round.get(line["round"], 0.0) + spent
    usual = fmean([spent for number, spent in by_round.items() if number > 1] or list(by_round.values()))
    return max(seconds - rounds * usual, 0.0) + trial.config.rounds * usual


def estimate(states: Sequence[tuple[Trial, State]], times: Times, make_executor: Callable[[], Executor]) -> str:
    """How long the trials that are not complete may take, as a sentence that names the source of the estimate.

    The source is the complete trials or, if there are none, some rounds of the first trial, which are run now and added
    to ``times``.
    """
    left = [trial for trial, state in states if state is not State.COMPLETE]
    if not left:
        return "nothing is left to run"
    source = f"the {plural(len(states) - len(left), 'complete trial')}"
    executor = make_executor()
    try:
        if times.estimate(left[0]) is None:
            times.add(left[0], measure_time(left[0], executor))
            source = f"{plural(tried_rounds(left[0]), 'round')} of {left[0].title}, run just now"
        each = [times.estimate(trial) or 0.0 for trial in left]
        seconds = max(sum(each) / executor.capacity, *each)  # a trial runs on one worker
    finally:
        executor.close()
    return (
        f"{plural(len(left), 'trial')} left, about {clock(seconds)} with {executor.capacity} at a time; estimated from "
        f"{source}; the mean time per round is assumed for trials of which no seed has run"
    )
