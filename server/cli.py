"""The ``fedrecon`` command."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.errors import FedReconError, RunError, UsageError, one_line
from fedrecon_core.registry import discover
from server.commands import pack as pack_command
from server.commands import plot as plot_command
from server.commands import sweep as sweep_command
from server.commands import table as table_command
from server.commands.data import data
from server.commands.deployment import SuperLinkOption, add_to, submit, submit_again
from server.engines.base import ENGINE_PACKAGES, ENGINES, Job
from server.engines.follow import Follower
from server.runs.directory import RunDirectory
from server.runs.formatting import plural
from server.runs.readers import json_in
from server.runs.setup import (
    RunSetup,
    check_resume_settings,
    check_run,
    create_run,
    existing_run,
    load_config,
    resolve_config,
    resume_run,
)
from server.sweep.paths import Kind, expect, kind_of
from server.trackers.reporting import Trackers

application = typer.Typer(
    name="fedrecon",
    help="Federated learning on incomplete multimodal data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
application.add_typer(data)
add_to(application)
sweep_command.add_to(application)
table_command.add_to(application)
plot_command.add_to(application)
pack_command.add_to(application)
errors = Console(stderr=True)

ConfigArgument = Annotated[Path | None, typer.Argument(help="YAML config; without it configs/quickstart.yaml.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key: dotted.key=value (repeatable).")]
EngineOption = Annotated[str | None, typer.Option(help="Where sites run: inprocess, ray or deployment (engine.name).")]
RayOption = Annotated[str | None, typer.Option(help="A Ray cluster for engine ray, HOST:PORT (engine.ray_address).")]
OutOption = Annotated[Path | None, typer.Option(help="Run directory (default runs/<name>-<UTC time>).")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out from its last checkpoint.")]


class InterruptedRunError(FedReconError):
    """Ctrl-C while a run was going on."""

    exit_code = 130


@application.callback()
def _root() -> None:
    """Federated learning on incomplete multimodal data."""


@application.command()
def run(  # noqa: PLR0913 - a parameter per option of the command
    config: ConfigArgument = None,
    settings: SetOption = None,
    engine: EngineOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    superlink: SuperLinkOption = None,
    ray_address: RayOption = None,
) -> None:
    """Train a federation and write its run directory."""
    if resume and config is not None:
        raise UsageError("--resume reads the run's own config.yaml; leave CONFIG out")
    if config is not None:
        expect(config, Kind.RUN_CONFIG)
    chosen = [*(settings or []), *_engine_settings(engine, superlink, ray_address)]
    if _deployed(config, chosen, out if resume else None):
        return submit_again(out, chosen) if resume else submit(load_config(config, chosen), out)
    if out is not None:  # of a deployment it is a place on another machine
        expect(out, Kind.RUN)
    _refuse_superlink(chosen)
    if resume and out is not None and _handed_over(out, chosen):
        return
    prepared = _resumed(chosen, out) if resume else create_run(config, chosen, out)
    _announce(prepared)
    try:
        _execute(prepared, resume)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted; go on with: fedrecon run --resume --out {prepared.directory.path}"
        ) from None
    _conclude(prepared)


def _engine_settings(engine: str | None, superlink: str | None, ray_address: str | None) -> list[str]:
    discover(ENGINE_PACKAGES)
    if engine:
        ENGINES.get(engine)
    given = {"engine.name": engine, "engine.superlink": superlink, "engine.ray_address": ray_address}
    return [f"{key}={value}" for key, value in given.items() if value]


def _deployed(config: Path | None, settings: list[str], resumed: Path | None) -> bool:
    """Whether the run goes to a SuperLink: because the command line says so, else the config or the resumed run."""
    named = [setting for setting in settings if setting.startswith("engine.name=")]
    if named:
        return named[-1] == "engine.name=deployment"
    source = resumed / "config.yaml" if resumed else config
    if source is None or not source.is_file():
        return False
    return not resolve_config(source, settings).engine.simulated


def _refuse_superlink(settings: list[str]) -> None:
    """A simulation has no SuperLink: who names one expects a deployment."""
    for setting in settings:
        if setting.startswith("engine.superlink="):
            found = "expected a deployment, found a simulation, which would run on this machine alone"
            told = "add --engine deployment, or engine.name: deployment to the config"
            raise UsageError(f"--superlink {setting.partition('=')[2]}: {found}; {told}")


def _resumed(settings: list[str], out: Path | None) -> RunSetup:
    if out is None:
        raise UsageError("--resume needs --out DIR, the directory of the run to go on with")
    return resume_run(out, settings)


def _handed_over(out: Path, settings: list[str]) -> bool:
    """Whether the run is complete and a tracker missed some of it, which it has been told now. Nothing else changes,
    and the data need not be there."""
    if not RunDirectory(out.resolve()).completed():
        return False
    directory = existing_run(out)
    check_resume_settings(settings)
    with directory.lock():
        return Trackers(resolve_config(directory.config, settings), directory).hand_over()


def _announce(prepared: RunSetup) -> None:
    config = prepared.config
    console = Console()
    console.print(
        f"[bold]FedRecon[/bold]  {config.name}: {config.recovery.name} on {config.strategy.name}, "
        f"data {config.data.name}, {plural(config.sites.count, 'site')}, {plural(config.rounds, 'round')}, "
        f"seed {config.seed}, engine {config.engine.name}",
        highlight=False,
        soft_wrap=True,
    )
    for fault in load_dataset(config).faults if config.has_central_data else ():
        console.print(f"known fault of the protocol: {fault}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"run directory {prepared.directory.path}", highlight=False, soft_wrap=True, markup=False)


def _execute(prepared: RunSetup, resume: bool) -> None:
    config = prepared.config
    engine = ENGINES.get(config.engine.name)
    job = Job(
        config=prepared.directory.config,
        out=prepared.directory.path,
        resume=resume,
        sites=config.sites.count,
        workers=config.engine.workers,
        cpus=config.engine.cpus,
        gpus=config.engine.gpus,
        timeout=config.sites.timeout,
        ray_address=config.engine.ray_address,
    )
    silent = not engine.shows_progress
    with Follower(Console(), prepared.directory, config.rounds) if silent else contextlib.nullcontext():
        engine().run(job)


def _conclude(prepared: RunSetup) -> None:
    """The final table. An engine that returns without a completed result is a failed run."""
    from server.report.terminal import final_table
    from server.runs.record import read_run

    directory = prepared.directory
    result = json_in(directory.result)
    if result.get("status") != "completed":
        raise RunError(f"the run in {directory.path} did not complete: {result.get('error', 'it left no result.json')}")
    console = Console()
    console.print(final_table(read_run(directory.path)))
    console.print(f"report {directory.path / 'report.html'}", highlight=False, soft_wrap=True, markup=False)


@application.command()
def check(config: ConfigArgument = None, settings: SetOption = None) -> None:
    """Check a config and print it resolved, every default written out."""
    if config is not None:
        expect(config, Kind.RUN_CONFIG)
    checked = load_config(config, settings or [])
    check_run(checked)
    typer.echo(checked.to_yaml(), nl=False)


@application.command()
def report(directory: Annotated[Path, typer.Argument(help="The directory of a run or of a sweep.")]) -> None:
    """Write report.html again from the files of a run or of a sweep."""
    from server.report.run.report import write_report
    from server.report.sweep.report import write_sweep_report

    expect(directory, Kind.RUN, Kind.SWEEP, Kind.PACKED)
    write = write_sweep_report if kind_of(directory) in (Kind.SWEEP, Kind.PACKED) else write_report
    typer.echo(write(directory))


@application.command()
def coherence(
    directory: Annotated[Path, typer.Argument(help="A completed run with generators.")],
    sample: Annotated[bool, typer.Option("--sample", help="Draw latents instead of taking their means.")] = False,
) -> None:
    """Measure cross-modal coherence of a run on its test split, and write coherence.json."""
    from server.commands.coherence import measure, record, table

    expect(directory, Kind.RUN)
    found = measure(directory, sample)
    RunDirectory(directory.resolve()).write_json("coherence.json", record(found))
    Console().print(table(found))
    typer.echo(f"cross {found.cross:.3f}  self {found.own:.3f}  classifier on real data {found.classifier:.3f}")


def main() -> None:
    """Entry point: every error that a user can act on is one line on stderr, never a traceback."""
    code: int | None = None
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = application(standalone_mode=False)  # Typer answers Ctrl-C by returning 130
    except FedReconError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own usage errors have it
            raise
        _fail(error.format_message(), 2)
    if code == InterruptedRunError.exit_code:
        _fail("interrupted before the run began; nothing was written", InterruptedRunError.exit_code)
    sys.exit(code or 0)


def _interrupt(number: int, frame: object) -> None:
    """What a service manager or a batch system asks of a command is what Ctrl-C asks: end all, and say how to go on."""
    raise KeyboardInterrupt


def _fail(text: str, code: int) -> None:
    if text:  # help that was shown for want of arguments has no more to say
        errors.print(f"fedrecon: {one_line(text)}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
