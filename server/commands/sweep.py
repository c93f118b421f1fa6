"""``fedrecon sweep``: the command."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError, describe_error, one_line
from server.commands.path_kinds import Kind, expect
from server.runs.formatting import plural
from server.sweep.choices import chosen, exactly, fits, titled
from server.sweep.current_provenance import device_here, device_on_ray
from server.sweep.dry_run import estimate, trial_table, tried_rounds
from server.sweep.executor import LostError, Workers
from server.sweep.local_executor import Forked
from server.sweep.place import refuse_place
from server.sweep.progress import Board, Tally, board_for
from server.sweep.provenance_changes import origins
from server.sweep.record import State
from server.sweep.schedule import Failure, Schedule, learn_from_disk
from server.sweep.sources import check_sources
from server.sweep.spec import Definition, read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import Trial, matrix

PIPED_WIDTH = 200

SweepArgument = Annotated[Path, typer.Argument(help="The YAML of the sweep: base config, axes, what is left out.")]
OutOption = Annotated[Path | None, typer.Option(help="Where the cells lie (default runs/<name>); there it goes on.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Cells at a time (default: the cores it may use).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key in every cell: dotted.key=value.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Run a part: axis=level,level (repeatable).")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="List the cells, estimate the time, run none.")]
RayOption = Annotated[str | None, typer.Option(help="Run each cell as a task of the Ray cluster at HOST:PORT.")]


class InterruptedSweepError(FedReconError):
    """Ctrl-C while cells were running."""

    exit_code = 130


@dataclass(frozen=True)
class Plan:
    """A sweep that can start: all its cells, and those that this command was asked for with how each stands."""

    definition: Definition
    settings: Sequence[str]
    directory: SweepDirectory
    trials: list[Trial]
    states: list[tuple[Trial, State]]

    @property
    def baseline(self) -> Mapping[str, str]:
        """What the table compares others with, axis -> level; of some sweeps nothing."""
        return self.definition.table.baseline if self.definition.table else {}

    @property
    def complete(self) -> list[Trial]:
        """What is there already."""
        return [trial for trial, state in self.states if state is State.COMPLETE]

    @property
    def left(self) -> list[Trial]:
        """What is to be run."""
        return [trial for trial, state in self.states if state is not State.COMPLETE]


def sweep(  # noqa: PLR0913 - a parameter per option of the command
    config: SweepArgument,
    out: OutOption = None,
    workers: WorkersOption = None,
    settings: SetOption = None,
    only: OnlyOption = None,
    dry_run: DryOption = False,
    ray_address: RayOption = None,
) -> None:
    """Run a matrix of configs over all cores; the same command goes on later and skips what is complete."""
    expect(config, Kind.SWEEP_CONFIG)
    definition = read_definition(config)
    trials = matrix(definition, config.resolve().parent, settings or [])
    asked = chosen(trials, definition.labels, only or [])
    where = out or Path("runs") / definition.name
    expect(where, Kind.SWEEP)
    refuse_place(where)
    directory = SweepDirectory(where, definition.keep_checkpoints, device_on_ray if ray_address else device_here)

    def plan() -> Plan:
        states = [(trial, directory.state(trial)) for trial in asked]
        return Plan(definition, settings or [], directory, trials, states)

    def make() -> Workers:
        return _workers(workers, ray_address)

    if dry_run:
        return _dry_run(_checked(plan()), make)
    with directory.lock():
        _run(_checked(plan()), make)


def _checked(plan: Plan) -> Plan:
    """``plan``, once the data of all that it is to run have been seen, and whether its configs fit them."""
    check_sources(plan.left, {trial.family for trial in plan.complete})
    return plan


def _workers(count: int | None, ray_address: str | None) -> Workers:
    if ray_address is None:
        return Forked(count or _cores())
    from server.sweep.ray_executor import OnRay

    return OnRay(ray_address, count)


def _cores() -> int:
    """The cores that this process may use; where the system cannot say which, all that there are."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _dry_run(plan: Plan, make: Callable[[], Workers]) -> None:
    console = Console()
    times = learn_from_disk(plan.directory, plan.states)
    if plan.left and times.guess(plan.left[0]) is None:
        first = plan.left[0]
        _say(console, f"running {plural(tried_rounds(first), 'round')} of {first.title} to estimate the time ...")
    try:
        told = estimate(plan.states, times, make)
    except KeyboardInterrupt:
        raise InterruptedSweepError("interrupted; nothing was written") from None
    # labels are there to be copied: elsewhere than on a terminal no line is cut
    console.print(trial_table(plan.states, times), width=None if console.is_terminal else PIPED_WIDTH)
    _notes(console, plan)
    _say(console, told)


def _run(plan: Plan, make: Callable[[], Workers]) -> None:
    console, directory = Console(), plan.directory
    directory.record(plan.definition, plan.trials, plan.settings)
    complete = plan.complete
    for trial in complete:  # the command may have been ended before it came to that
        directory.tidy(trial)
    _say(console, f"sweep {plan.definition.name}: {plural(len(plan.states), 'cell')}, {len(complete)} complete")
    _say(console, f"directory {directory.path}")
    _notes(console, plan)
    times = learn_from_disk(directory, plan.states)
    board = board_for(console, Tally(len(plan.states), len(complete)), times)
    try:
        failures = _through(plan, make(), board) if plan.left else []
    except LostError:
        _report(console, directory.path)  # nobody was there, as at Ctrl-C, to ask for it later
        raise
    _report(console, directory.path)
    _conclude(console, plan, failures)


def _through(plan: Plan, workers: Workers, board: Board) -> list[Failure]:
    """Run all that is left; nothing that was started outlives it."""
    board.open()
    try:
        return Schedule(plan.directory, workers, board).run(plan.left)
    except KeyboardInterrupt:
        raise InterruptedSweepError(f"interrupted; {_so_far(board.tally)}") from None
    except LostError as error:
        raise LostError(f"{error}; {_so_far(board.tally)}") from None
    finally:
        workers.close()
        board.close()


def _so_far(tally: Tally) -> str:
    return f"{tally.complete} of {tally.total} cells are complete; the same command goes on"


def _notes(console: Console, plan: Plan) -> None:
    """What a person should know of the results that are there."""
    strangers = plan.directory.strangers(plan.trials)
    if strangers:
        named = f"{', '.join(strangers[:3])}{', ...' if len(strangers) > 3 else ''}"
        told = plural(len(strangers), "run directory belongs", "run directories belong")
        _say(console, f"{told} to no cell of this sweep, left as found: {named}")
    for made, count in Counter(filter(None, map(plan.directory.outdated, plan.left))).items():
        told = "begun anew: rounds that were made in two ways would be numbers of neither"
        _say(console, f"unfinished cells with rounds {made}: {count}, {told}")
    if _lacks_baseline(plan):
        told = "the table's baseline, is in no cell of this part, and none is complete: differences wait for it"
        _say(console, f"{titled(plan.baseline)}, {told}")
    for made, count in Counter(made for trial in plan.complete for made in origins(plan.directory, trial)).items():
        told = plural(count, "complete cell was made", "complete cells were made")
        _say(console, f"{told} {made}; remove a cell's directory to have it run anew")


def _lacks_baseline(plan: Plan) -> bool:
    """Whether this command leaves the table without what others are compared with."""
    baseline = exactly(plan.baseline)
    rest = [trial for trial in plan.trials if fits(trial.labels, baseline)]
    asked = {trial.sha256 for trial, _ in plan.states}
    there = any(trial.sha256 in asked or plan.directory.run_of(trial).completed() for trial in rest)
    return bool(baseline) and not there


def _report(console: Console, path: Path) -> None:
    """Write the report of the whole; no verdict depends on it."""
    from server.report.sweep.report import write_sweep_report  # here: it compares, and a dry run does not

    _say(console, "comparing what is complete ...")  # of hundreds of cells that takes half a minute
    try:
        _say(console, f"report {write_sweep_report(path)}")
    except KeyboardInterrupt:
        raise InterruptedSweepError("interrupted; `fedrecon report` writes the report.html of the sweep") from None
    except Exception as error:
        _say(console, f"note: report.html could not be made: {describe_error(error)}")


def _conclude(console: Console, plan: Plan, failures: list[Failure]) -> None:
    """``RunError`` if any cell failed, after a line for each."""
    for failure in failures:
        _say(console, f"failed: {failure.trial.title}: {failure.reason}; see {plan.directory.log(failure.trial)}")
    if failures:
        raise RunError(f"{len(failures)} of {len(plan.states)} cells failed; the same command tries them again")
    trials = "the one cell is" if len(plan.states) == 1 else f"all {len(plan.states)} cells are"
    _say(console, f"{trials} complete in {plan.directory.path}")


def _say(console: Console, text: str) -> None:
    console.print(one_line(text), highlight=False, soft_wrap=True, markup=False)


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("sweep")(sweep)
