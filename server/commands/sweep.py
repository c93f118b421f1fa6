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

from fedrecon_core.errors import ConfigError, DataError, FedReconError, RunError, describe_error, one_line
from server.runs.formatting import plural
from server.sweep.dry_run import estimate, trial_table, tried_rounds
from server.sweep.executor import Executor, LostError
from server.sweep.local_executor import LocalExecutor
from server.sweep.parameters import exactly, fits, select, title_of
from server.sweep.paths import Kind, check_out, expect
from server.sweep.progress import Tally, board_for
from server.sweep.record import State
from server.sweep.scheduler import Failure, Scheduler, read_times
from server.sweep.spec import Definition, read_definition
from server.sweep.store import SweepDirectory, device_here, device_on_ray
from server.sweep.trials import Trial, build_trials, check_data

PIPED_WIDTH = 200

SweepArgument = Annotated[Path, typer.Argument(help="The YAML of the sweep: base config, axes, restrictions.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Directory of the sweep (default runs/<name>); an existing one is resumed.")
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Trials at a time (default: the available cores).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key in every trial: dotted.key=value.")]
OnlyOption = Annotated[list[str] | None, typer.Option("--only", help="Run only a part: axis=value,value (repeatable).")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="List the trials and estimate the time; run none.")]
RayOption = Annotated[str | None, typer.Option(help="Run each trial as a task of the Ray cluster at HOST:PORT.")]


class InterruptedSweepError(FedReconError):
    """Ctrl-C or SIGTERM while trials were running."""

    exit_code = 130


@dataclass(frozen=True)
class Plan:
    """A checked sweep: all its trials, and those that the command selected, with their states."""

    definition: Definition
    settings: Sequence[str]
    directory: SweepDirectory
    trials: list[Trial]
    states: list[tuple[Trial, State]]

    @property
    def baseline(self) -> Mapping[str, str]:
        """The baseline of the sweep's table, parameter -> value; empty if it has none."""
        return self.definition.table.baseline if self.definition.table else {}

    @property
    def complete(self) -> list[Trial]:
        """The selected trials that are complete."""
        return [trial for trial, state in self.states if state is State.COMPLETE]

    @property
    def left(self) -> list[Trial]:
        """The selected trials that are to run."""
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
    """Run a grid of configs over all cores. The same command resumes it and skips complete trials."""
    expect(config, Kind.SWEEP_CONFIG)
    definition = read_definition(config)
    check_reference(definition)
    trials = build_trials(definition, config.resolve().parent, settings or [])
    selected = select(trials, definition.labels, only or [])
    where = out or Path("runs") / definition.name
    expect(where, Kind.SWEEP)
    check_out(where)

    def write_run_report(path: Path) -> None:
        from server.report.run import write_report  # here: slow to import, and few trials lack their report

        write_report(path)

    device = device_on_ray if ray_address else device_here
    directory = SweepDirectory(where, definition.keep_checkpoints, device, write_run_report)

    def make_plan() -> Plan:
        states = [(trial, directory.state(trial)) for trial in selected]
        plan = Plan(definition, settings or [], directory, trials, states)
        check_data(plan.left, {trial.family for trial in plan.complete})
        return plan

    def make_executor() -> Executor:
        if ray_address is None:
            return LocalExecutor(workers or available_cores())
        from server.sweep.ray_executor import RayExecutor

        return RayExecutor(ray_address, workers)

    console = Console()
    if dry_run:
        return _dry_run(console, make_plan(), make_executor)
    with directory.lock():
        _run(console, make_plan(), make_executor)


def check_reference(definition: Definition) -> None:
    """Raise ``ConfigError`` if the published values of the sweep's table cannot be used: now, not after hours."""
    if definition.table is not None and definition.table.reference is not None:
        from server.analysis.published import read_published  # here: few sweeps have published values

        try:
            read_published(Path(definition.table.reference), definition.labels)
        except DataError as error:
            raise ConfigError(f"table.reference: {error}") from None


def available_cores() -> int:
    """The number of cores that this process may use; of all cores where the system does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _dry_run(console: Console, plan: Plan, make_executor: Callable[[], Executor]) -> None:
    times = read_times(plan.directory, plan.states)
    if plan.left and times.estimate(plan.left[0]) is None:
        first = plan.left[0]
        _print(console, f"running {plural(tried_rounds(first), 'round')} of {first.title} to estimate the time ...")
    try:
        estimated = estimate(plan.states, times, make_executor)
    except KeyboardInterrupt:
        raise InterruptedSweepError("interrupted; nothing was written") from None
    # Labels are copied from the table: if it is not for a terminal, no line is cut.
    console.print(trial_table(plan.states, times), width=None if console.is_terminal else PIPED_WIDTH)
    print_notes(console, plan)
    _print(console, estimated)


def _run(console: Console, plan: Plan, make_executor: Callable[[], Executor]) -> None:
    directory, complete, total = plan.directory, plan.complete, len(plan.states)
    directory.record(plan.definition, plan.trials, plan.settings)
    for trial in complete:  # an earlier command may have ended before it did this
        directory.tidy(trial)
    _print(console, f"sweep {plan.definition.name}: {plural(total, 'trial')}, {len(complete)} complete")
    _print(console, f"directory {directory.path}")
    print_notes(console, plan)
    try:
        failures = _run_trials(console, plan, make_executor()) if plan.left else []
    except LostError:
        _write_report(console, directory.path)  # unlike after Ctrl-C, nobody may be there to ask for it
        raise
    _write_report(console, directory.path)
    for failure in failures:
        _print(console, f"failed: {failure.trial.title}: {failure.reason}; see {directory.log(failure.trial)}")
    if failures:
        raise RunError(f"{len(failures)} of {plural(total, 'trial')} failed; the same command tries them again")
    _print(console, f"{'the only trial is' if total == 1 else f'all {total} trials are'} complete in {directory.path}")


def _run_trials(console: Console, plan: Plan, executor: Executor) -> list[Failure]:
    """Run all trials that are left. Nothing that was started outlives this call."""
    times = read_times(plan.directory, plan.states)
    board = board_for(console, Tally(len(plan.states), len(plan.complete)), times)
    board.open()
    try:
        return Scheduler(plan.directory, executor, board).run(plan.left)
    except (KeyboardInterrupt, LostError) as error:
        done = f"{board.tally.complete} of {plural(board.tally.total, 'trial')} complete; the same command resumes"
        if isinstance(error, LostError):
            raise LostError(f"{error}; {done}") from None
        raise InterruptedSweepError(f"interrupted; {done}") from None
    finally:
        executor.close()
        board.close()


def print_notes(console: Console, plan: Plan) -> None:
    """Print what a person should know about the existing results: unknown runs, trials that start over, a baseline that
    is missing, and complete trials that were computed by other code or elsewhere."""
    directory = plan.directory
    unknown = directory.unknown_runs(plan.trials)
    if unknown:
        names = f"{', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}"
        belong = plural(len(unknown), "run directory belongs", "run directories belong")
        _print(console, f"{belong} to no trial of this sweep and will not be changed: {names}")
    for reason, count in Counter(filter(None, map(directory.outdated, plan.left))).items():
        start = plural(count, "unfinished trial starts", "unfinished trials start")
        _print(console, f"{start} over: rounds were computed {reason}, and a result must not mix both")
    baseline = exactly(plan.baseline)
    selected = {trial.sha256 for trial, _ in plan.states}
    candidates = [trial for trial in plan.trials if fits(trial.labels, baseline)]
    if baseline and not any(t.sha256 in selected or directory.run_of(t).completed() for t in candidates):
        missing = "the baseline of the table, is not selected and not complete: there will be no differences yet"
        _print(console, f"{title_of(plan.baseline)}, {missing}")
    found = Counter(change for trial in plan.complete for change in directory.provenance_changes(trial))
    for change, count in found.items():
        computed = plural(count, "complete trial was computed", "complete trials were computed")
        _print(console, f"{computed} {change}; to repeat a trial, delete its directory")


def _write_report(console: Console, path: Path) -> None:
    """Write the report of the sweep. Its failure changes nothing about the result of the command."""
    from server.report.sweep import write_sweep_report  # here: it compares, which a dry run does not need

    _print(console, "comparing complete trials ...")  # half a minute for hundreds of trials
    try:
        _print(console, f"report {write_sweep_report(path)}")
    except KeyboardInterrupt:
        raise InterruptedSweepError("interrupted; `fedrecon report` writes the report.html of the sweep") from None
    except Exception as error:
        _print(console, f"note: report.html could not be written: {describe_error(error)}")


def _print(console: Console, text: str) -> None:
    console.print(one_line(text), highlight=False, soft_wrap=True, markup=False)


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("sweep")(sweep)
