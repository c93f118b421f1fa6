"""``fedrecon runs``, ``stop``, ``follow`` and ``certificates``: commands for runs on a SuperLink and for its keys."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import UsageError
from server.engines import flower
from server.engines.base import Job
from server.engines.deployment import Deployment, follow
from server.engines.superlink import SuperLink
from server.runs.directory import RunDirectory
from server.runs.setup import check_engine_kind, check_resume_settings, check_run, default_directory, load_config

SuperLinkOption = Annotated[
    str | None, typer.Option("--superlink", help="A connection in Flower's config.toml (default: Flower's default).")
]
PIPED_WIDTH = 200
RunArgument = Annotated[str, typer.Argument(help="The id of a run, see `fedrecon runs`.")]


def submit(config: RunConfig, out: Path | None) -> None:
    """Run ``config`` on a SuperLink and watch it.

    ``out`` is a path where the ServerApp runs; without it, the run directory is ``runs/<name>-<UTC time>`` in the
    ServerApp's working directory.
    """
    check_run(config)
    if not config.has_central_data:  # only the sites open data, and a root on this machine means nothing to them
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": None})})
    with tempfile.TemporaryDirectory(prefix="fedrecon-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(config.to_yaml(), encoding="utf-8")
        where = out.resolve() if out else default_directory(config.name)
        Deployment().run(Job(path, where, False, config.sites.count, superlink=config.engine.superlink))


def submit_again(out: Path | None, settings: list[str]) -> None:
    """Resume the run in ``out``, a path where the ServerApp runs, which may be another machine."""
    if out is None:
        raise UsageError("--resume needs --out DIR, the directory of the run to resume (where the ServerApp runs)")
    check_resume_settings(settings)
    named = dict(setting.split("=", 1) for setting in settings)
    config = out.resolve() / "config.yaml"
    begun = load_config(config).engine if config.is_file() else None
    if begun is not None:
        check_engine_kind(RunDirectory(config.parent), begun.name, "deployment")
    superlink = named.get("engine.superlink") or (begun.superlink if begun else None)
    others = tuple(setting for setting in settings if not setting.startswith("engine."))
    Deployment().run(Job(config, config.parent, True, sites=0, superlink=superlink, settings=others))


def runs(superlink: SuperLinkOption = None) -> None:
    """List the runs that a SuperLink knows."""
    title = f"SuperLink: {superlink or 'the default connection (choose another with --superlink NAME)'}"
    whole = [Column(name, no_wrap=True) for name in ("run", "status")]
    table = Table(*whole, "submitted", "finished", "details", title=title)
    for run in SuperLink(superlink).runs():
        fields = [str(run.get(key, "")) for key in ("run-id", "status", "pending-at", "finished-at")]
        reason = flower.reason(str(run.get("status-details", "")))
        table.add_row(*map(Text, [*fields, reason]))  # not as markup: a site's message may have brackets
    console = Console()  # ids are copied from the output: if it is not a terminal, no line is cut
    (console if console.is_terminal else Console(width=PIPED_WIDTH)).print(table)


def stop(run_id: RunArgument, superlink: SuperLinkOption = None) -> None:
    """Stop a run on a SuperLink; its last checkpoint stays."""
    link = SuperLink(superlink)
    link.stop(run_id)
    typer.echo(f"stopped run {run_id}; {link.how_to_resume(link.directory(run_id))}")


def watch(run_id: RunArgument, superlink: SuperLinkOption = None) -> None:
    """Watch a run on a SuperLink until it ends."""
    link = SuperLink(superlink)
    link.run(run_id)
    follow(link, run_id)


def certificates(
    out: Annotated[Path, typer.Option(help="Folder of keys and certificates; existing ones are kept.")],
    host: Annotated[list[str], typer.Option(help="Name or address by which sites reach the SuperLink (repeatable).")],
    site: Annotated[list[str] | None, typer.Option(help="A site that needs a key pair (repeatable).")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the server certificate is valid.")] = 825,
) -> None:
    """Make the authority, the SuperLink's certificate and a key pair per site."""
    from server.engines.certificates import write_certificates

    for line in write_certificates(out, host, site or [], days):
        typer.echo(line)


def add_to(application: typer.Typer) -> None:
    """Add the commands to the program."""
    application.command("runs")(runs)
    application.command("stop")(stop)
    application.command("follow")(watch)
    application.command("certificates")(certificates)
