"""The ServerApp: sets up a run from its config, executes it, and writes its result and report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedrecon_core.errors import FedReconError
from fedrecon_core.runtime import keep_freed_memory
from server.engines import flower
from server.federation.messaging import Channel, WireMeter
from server.federation.registration import RunSites, register_sites
from server.report.run import final_table, write_report
from server.runs.directory import newest_round
from server.runs.manifest import manifest, write_manifest
from server.runs.record import read_run
from server.runs.setup import RunSetup, open_run, start_run, submitted_run
from server.runs.tracking import Trackers
from server.training import checkpoints
from server.training.evaluation import evaluator_for
from server.training.progress import progress_for
from server.training.reconstruction_images import draw_reconstructions
from server.training.rounds import Rounds, failed_result, restore

app = ServerApp()

LOG_WIDTH = 120


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Execute the run that the run config describes. If it fails, write the reason to ``result.json`` and raise."""
    torch.set_num_threads(1)  # results depend on the number of threads
    keep_freed_memory()
    config, out = str(context.run_config.get("config") or ""), str(context.run_config.get("out") or "")
    # true if a command on this machine has set up the run and waits for it; false in a deployment
    set_up = bool(out) and Path(config) == Path(out) / "config.yaml"
    try:
        if set_up:
            setup = open_run(Path(out))
        else:
            resume, settings = bool(context.run_config.get("resume")), str(context.run_config.get("settings") or "")
            setup = submitted_run(config, out, resume, settings)
        run(grid, setup, named=bool(out))
    except Exception as error:
        if set_up:
            raise  # the command catches the error itself, or reads result.json
        raise flower.reportable(error) from error


def run(grid: Grid, setup: RunSetup, named: bool = True) -> None:
    """Train, evaluate, report. ``named``: the run config names the run directory, so that sites can read it there.

    In a deployment this prints for the user, since the output of the ServerApp is the log of the run.
    """
    directory, deployed = setup.directory, not setup.config.engine.simulated
    console = Console(width=LOG_WIDTH) if deployed else Console(quiet=True)
    console.print(f"run directory {directory.path}", highlight=False, soft_wrap=True, markup=False)
    try:
        with directory.lock():
            if not Trackers(setup.config, directory).catch_up():
                setup = start_run(setup)
                _run_and_report(grid, setup, directory.identity if deployed else "" if named else str(directory.path))
    except FedReconError as error:
        console.print(f"fedrecon: {error}", highlight=False, soft_wrap=True, markup=False)
        raise
    if deployed:
        console.print(final_table(read_run(directory.path)))


def _run_and_report(grid: Grid, setup: RunSetup, home: str) -> None:
    directory, trackers = setup.directory, Trackers(setup.config, setup.directory)
    try:
        sites, result = _run(grid, setup, home, trackers)
    except BaseException as error:
        failure = failed_result(error, newest_round(directory.checkpoints))
        _try("result.json", lambda: directory.write_json("result.json", failure))
        _try("report.html", lambda: write_report(directory.path))
        trackers.finish(failure)
        raise
    directory.write_json("result.json", {"status": "completed", **result})
    trackers.finish({"status": "completed", **result})
    _try("reconstructions.png", lambda: draw_reconstructions(directory, sites))
    _try("report.html", lambda: write_report(directory.path))


def _run(grid: Grid, setup: RunSetup, home: str, trackers: Trackers) -> tuple[RunSites, dict[str, Any]]:
    """Register the sites, restore the newest checkpoint, run the rounds. ``home``: ``TrainInstruction.run``."""
    config, directory, began = setup.config, setup.directory, time.perf_counter()
    trackers.choose()
    known = checkpoints.load_newest(directory.checkpoints)
    progress = progress_for(Console(), config.rounds, 1 + (known.round if known else 0))
    channel = Channel(grid, config, WireMeter(known.wire_bytes if known else 0), progress.note)
    progress.open()
    try:
        spec = directory.read_json("manifest.json").get("spec_sha256") if known else None
        sites = register_sites(channel, home, known.statistics if known else None, spec, setup.server_data)
        strategy, training = restore(sites, known)
        full_bytes = strategy.full_bytes(training.groups)
        described = manifest(sites.federation, sites.server_data, training.groups, full_bytes)
        write_manifest(directory, described, training.round, progress.note)
        trackers.start(training.round)
        evaluator = evaluator_for(sites, strategy, channel, directory.path)
        return sites, Rounds(channel, sites, strategy, evaluator, directory, progress, training, began).run()
    finally:
        progress.close()


def _try(what: str, action: Callable[[], object]) -> None:
    """Write the file ``what``. If this fails, the failure is only printed, since the outcome of the run does not depend
    on it."""
    try:
        action()
    except Exception as error:
        Console(stderr=True).print(f"({what} could not be written: {error})", highlight=False, markup=False)
