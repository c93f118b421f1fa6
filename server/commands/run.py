"""``fedrecon run`` and ``fedrecon check``: train a federation, or check the config of one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import ConfigError, FedReconError, RunError, UsageError
from fedrecon_core.registry import discover
from server.commands.deployment import SuperLinkOption, submit, submit_again
from server.engines.base import ENGINE_PACKAGES, ENGINES, Job
from server.engines.follow import Follower
from server.runs.directory import RunDirectory
from server.runs.formatting import plural
from server.runs.readers import json_in, yaml_in
from server.runs.setup import (
    RunSetup,
    check_resume_settings,
    check_run,
    check_trackers,
    create_run_of,
    existing_run,
    load_config,
    resolve_config,
    resume_run,
)
from server.runs.tracking import Trackers
from server.sweep.paths import Kind, expect

ConfigArgument = Annotated[Path | None, typer.Argument(help="YAML config; without it configs/quickstart.yaml.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key: dotted.key=value (repeatable).")]
EngineOption = Annotated[str | None, typer.Option(help="Where sites run: inprocess, ray or deployment (engine.name).")]
RayOption = Annotated[str | None, typer.Option(help="A Ray cluster for engine ray, HOST:PORT (engine.ray_address).")]
OutOption = Annotated[Path | None, typer.Option(help="Run directory (default runs/<name>-<UTC time>).")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Resume the run in --out from its last checkpoint.")]


class InterruptedRunError(FedReconError):
    """Ctrl-C during a run."""

    exit_code = 130


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
    discover(ENGINE_PACKAGES)
    if engine:
        ENGINES.get(engine)
    options = {"engine.name": engine, "engine.superlink": superlink, "engine.ray_address": ray_address}
    chosen = [*(settings or []), *(f"{key}={value}" for key, value in options.items() if value)]
    if resume:
        return _resume(config, chosen, out)
    loaded = _load(config, chosen)
    if not loaded.engine.simulated:
        return submit(loaded, out)  # `out` is a path on another machine
    if out is not None:
        expect(out, Kind.RUN)
        RunDirectory(out.resolve()).check_new()
    _refuse_superlink(chosen)
    check_trackers(loaded)
    _announce(loaded)
    _execute(create_run_of(loaded, out))


def check(config: ConfigArgument = None, settings: SetOption = None) -> None:
    """Check a config and print it resolved, with every default written out."""
    checked = _load(config, settings or [])
    check_run(checked)
    typer.echo(checked.to_yaml(), nl=False)


def _load(path: Path | None, settings: Sequence[str]) -> RunConfig:
    """Load the config of one run; the error for another kind of file or folder names its kind."""
    try:
        return load_config(path, settings)
    except ConfigError:
        if path is not None:
            expect(path, Kind.RUN_CONFIG)
        raise


def _resume(config: Path | None, settings: Sequence[str], out: Path | None) -> None:
    if config is not None:
        raise UsageError("--resume reads the run's own config.yaml; leave CONFIG out")
    named = [setting for setting in settings if setting.startswith("engine.name=")]
    engine = yaml_in(out / "config.yaml").get("engine") if out is not None and not named else None
    begun = engine.get("name") if isinstance(engine, dict) else None
    if named[-1:] == ["engine.name=deployment"] or begun == "deployment":
        return submit_again(out, list(settings))
    if out is None:
        _refuse_superlink(settings)
        raise UsageError("--resume needs --out DIR, the directory of the run to resume")
    expect(out, Kind.RUN)
    _refuse_superlink(settings)
    if not _report_to_trackers(out, settings):
        setup = resume_run(out, settings)
        _announce(setup.config)
        _execute(setup, resume=True)


def _refuse_superlink(settings: Sequence[str]) -> None:
    """Raise ``UsageError`` if a simulation is given a SuperLink."""
    for setting in settings:
        if setting.startswith("engine.superlink="):
            found = "expected a deployment, found a simulation, which would run only on this machine"
            hint = "add --engine deployment, or engine.name: deployment to the config"
            raise UsageError(f"--superlink {setting.partition('=')[2]}: {found}; {hint}")


def _report_to_trackers(out: Path, settings: Sequence[str]) -> bool:
    """Report the rest of a complete run to trackers that missed it, and return whether there was one. Needs no data."""
    if not RunDirectory(out.resolve()).completed():
        return False
    directory = existing_run(out)
    check_resume_settings(settings)
    with directory.lock():
        return Trackers(resolve_config(directory.config, settings), directory).catch_up()


def _announce(config: RunConfig) -> None:
    """Print a line about the run of ``config``, and let its engine start in the background."""
    Console().print(
        f"[bold]FedRecon[/bold]  {config.name}: {config.recovery.name} on {config.strategy.name}, "
        f"data {config.data.name}, {plural(config.sites.count, 'site')}, {plural(config.rounds, 'round')}, "
        f"seed {config.seed}, engine {config.engine.name}",
        highlight=False,
        soft_wrap=True,
    )
    ENGINES.get(config.engine.name).prepare(config)


def _execute(setup: RunSetup, resume: bool = False) -> None:
    """Execute the run and print its final table. An engine that returns without a completed result is a failed run."""
    from server.report.run import final_table
    from server.runs.record import read_run

    console, config, directory = Console(), setup.config, setup.directory
    for fault in setup.server_data.dataset.faults if setup.server_data else ():
        console.print(f"known fault of the protocol: {fault}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"run directory {directory.path}", highlight=False, soft_wrap=True, markup=False)

    engine = ENGINES.get(config.engine.name)
    follow = not engine.shows_progress
    try:
        with Follower(console, directory, config.rounds) if follow else contextlib.nullcontext():
            engine().run(Job.of(setup, resume))
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted; resume with: fedrecon run --resume --out {directory.path}") from None
    result = json_in(directory.result)
    if result.get("status") != "completed":
        raise RunError(f"the run in {directory.path} did not complete: {result.get('error', 'it left no result.json')}")
    console.print(final_table(read_run(directory.path)))
    console.print(f"report {directory.path / 'report.html'}", highlight=False, soft_wrap=True, markup=False)


def add_to(application: typer.Typer) -> None:
    """Add the commands to the program."""
    application.command("run")(run)
    application.command("check")(check)
