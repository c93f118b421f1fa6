"""``fedrecon data import``: a table and the files that it names become site folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrecon_core.preparation.importing.mapping import read_mapping
from fedrecon_core.preparation.importing.sites import read_sites
from fedrecon_core.preparation.writer import lacking
from fedrecon_core.registry import CORE_PACKAGES, FEATURE_PACKAGES, discover
from server.commands.data.writing import cache_of, resumable, tell_run, write


def import_(
    file: Annotated[Path, typer.Argument(help="A CSV or Parquet file with a row per sample.")],
    mapping: Annotated[Path, typer.Option("--map", help="A YAML file that says what the columns mean.")],
    out: Annotated[Path, typer.Option(help="A new folder, or one to go on with.")],
    cache: Annotated[Path | None, typer.Option(help="Features of files seen before (default: the user's).")] = None,
) -> None:
    """Make a site folder, or one per site, from a table; run again after an interruption, it goes on."""
    discover((*CORE_PACKAGES, *FEATURE_PACKAGES))
    with resumable():
        sites = read_sites(file, read_mapping(mapping), cache_of(cache))
        write(sites, out)
    if names := lacking(sites.values()):
        told = "the folder can be a site of a deployment in which another one has it, but no run of its own"
        typer.echo(f"no sample has {', '.join(names)}: {told}")
        return
    spec = next(iter(sites.values())).spec
    if list(sites) == ["."]:
        tell_run(out, "folder", spec, "data.partition=iid")
    else:
        tell_run(out, "sites", spec, "data.partition=iid", f"sites.count={len(sites)}")
