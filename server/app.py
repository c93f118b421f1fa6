"""The ServerApp: from a config and a run directory to a finished run, or to a result that says why not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError, UsageError, describe_error
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.runtime import keep_freed_memory
from server.engines import flower
from server.federation.registration import Call, Started, register_sites
from server.report.run.report import write_report
from server.report.terminal import final_table
from server.runs.manifest import data_changes, earlier, joined_sites, made_otherwise, manifest
from server.runs.record import read_run
from server.runs.setup import RunSetup, check_engine_kind, create_run, open_run, start_run
from server.trackers.reporting import Trackers
from server.training import checkpoints
from server.training.checkpoints import Training
from server.training.evaluation import evaluator_for
from server.training.progress import PlainProgress, progress_for
from server.training.reconstruction_images import draw_reconstructions
from server.training.rounds import Rounds, first_state
from strategies.wire import WireMeter

app = ServerApp()
APP = Path(__file__).resolve().parents[1]
"""Where the packages lie: beside the configs, in a checkout, a wheel and a submitted app alike."""

LOG_WIDTH = 120


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config asks for. A failed run leaves ``result.json`` with its reason and raises."""
    torch.set_num_threads(1)  # results depend on the number of threads
    keep_freed_memory()
    try:
        run(grid, _prepared(context), named=bool(context.run_config.get("out")))
    except Exception as error:
        if _beside_command(context):
            raise  # the command sees the error itself, or result.json
        raise flower.reportable(error) from error


def _beside_command(context: Context) -> bool:
    """Whether a command on this machine prepared the run directory and waits for the run; a deployment's does not."""
    config, out = str(context.run_config.get("config") or ""), str(context.run_config.get("out") or "")
    return bool(out) and Path(config) == Path(out) / "config.yaml"


def _prepared(context: Context) -> RunSetup:
    """The run that the command prepared, or a new one for those who use ``flwr run``."""
    config, out = str(context.run_config.get("config") or ""), str(context.run_config.get("out") or "")
    resume = bool(context.run_config.get("resume"))
    if resume and not out:
        raise UsageError("resume needs out, the directory of the run to go on with")
    if _beside_command(context):
        return open_run(Path(out))
    if resume:
        return _resumed(Path(out), str(context.run_config.get("settings") or ""))
    return create_run(_found(config) if config else None, out=Path(out) if out else None)


def _resumed(out: Path, settings: str) -> RunSetup:
    """A run that ``flwr run`` (without ``settings``) or a deployment's command goes on with."""
    prepared = open_run(out, json.loads(settings or "[]"))
    if settings:
        check_engine_kind(prepared.directory, prepared.config.engine.name, "deployment")
    return prepared


def _found(config: str) -> Path:
    """The config file: one that came with the app, else one on this machine."""
    return APP / config if (APP / config).is_file() else Path(config)


def run(grid: Grid, prepared: RunSetup, named: bool = True) -> None:
    """Train, evaluate, report. ``named``: the run config names the run directory, so that sites know it, too.

    A deployment's ServerApp has no command beside it: what a person should see goes to its output, which is the run's
    log.
    """
    directory = prepared.directory
    deployed = not prepared.config.engine.simulated
    voice = Console(width=LOG_WIDTH) if deployed else Console(quiet=True)
    voice.print(f"run directory {directory.path}", highlight=False, soft_wrap=True, markup=False)
    try:
        with directory.lock():
            if not Trackers(prepared.config, directory).hand_over():
                taken = start_run(prepared)
                home = directory.identity if deployed else "" if named else str(directory.path)
                _run_and_report(grid, taken, home)
    except FedReconError as error:
        voice.print(f"fedrecon: {error}", highlight=False, soft_wrap=True, markup=False)
        raise
    voice.print(final_table(read_run(directory.path)))


def _run_and_report(grid: Grid, prepared: RunSetup, home: str) -> None:
    directory = prepared.directory
    trackers = Trackers(prepared.config, directory)
    try:
        started, result = _run(grid, prepared, home, trackers)
    except BaseException as error:
        failure = {**_failure(error), "rounds": checkpoints.newest_round(directory.checkpoints)}
        _quietly("result.json", lambda: directory.write_json("result.json", failure))
        _quietly("report.html", lambda: write_report(directory.path))
        trackers.finish(failure)
        raise
    directory.write_json("result.json", {"status": "completed", **result})
    trackers.finish({"status": "completed", **result})
    _quietly("reconstructions.png", lambda: draw_reconstructions(directory, started))
    _quietly("report.html", lambda: write_report(directory.path))


def _failure(error: BaseException) -> dict[str, Any]:
    """Status and reason of a run that ended before its last round."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": "interrupted", "exit_code": 130}
    if not isinstance(error, Exception):  # Flower ends its ServerApp with SystemExit, or with a kind of its own
        told = "stopped from outside, or the SuperLink ended; `fedrecon run --resume` goes on"
        return {"status": "interrupted", "error": told, "exit_code": 1}
    return {"status": "failed", "error": describe_error(error), "exit_code": getattr(error, "exit_code", 1)}


def _run(grid: Grid, prepared: RunSetup, home: str, trackers: Trackers) -> tuple[Started, dict[str, Any]]:
    config, directory = prepared.config, prepared.directory
    began = time.perf_counter()
    trackers.choose()
    known = checkpoints.load_newest(directory.checkpoints)
    meter = WireMeter(known.wire_bytes if known else 0)
    progress = progress_for(Console(), config.rounds, 1 + (known.round if known else 0))
    progress.open()
    try:
        statistics = known.statistics if known else {}
        spec = directory.read_json("manifest.json").get("spec_sha256") if known else None
        started = register_sites(Call(grid, config, home, meter, progress.note, statistics, spec))
        training = first_state(started, known)
        strategy = _strategy(started, training)
        if known is None:
            strategy.check(training.groups)
        _take_up(prepared, started, training, strategy, progress)
        trackers.start(training.round)
        evaluator = evaluator_for(started, strategy, grid, directory.path, meter)
        rounds = Rounds(grid, config, started, strategy, evaluator, directory, progress, training, meter, began)
        return started, rounds.run()
    finally:
        progress.close()


def _strategy(started: Started, training: Training) -> Any:
    """The strategy with the state that it had after the last round."""
    cls: Any = STRATEGIES.get(started.federation.config.strategy.name)
    strategy = cls(started.federation)
    started.federation.trained.update(training.trained)
    started.federation.quality.update(training.quality)
    strategy.load_state(training.strategy)
    strategy.summary()
    return strategy


def _take_up(prepared: RunSetup, started: Started, training: Training, strategy: Any, progress: PlainProgress) -> None:
    """Write the manifest, and see that a resumed run goes on with the data that it began with."""
    directory, groups = prepared.directory, training.groups
    now = manifest(prepared.config, started, groups, strategy.full_bytes(groups))
    old = directory.read_json("manifest.json") if training.round else {}
    for key, thing in (("spec_sha256", "data set"), ("partition_sha256", "partition"), ("mask_sha256", "masks")):
        if old.get(key, now[key]) != now[key]:
            told = "bring back the data that the run began with, or remove its directory to have it begun anew"
            raise RunError(f"cannot resume: the {thing} changed, expected {key} {old[key]}, found {now[key]}; {told}")
    for text in (*made_otherwise(old, now), *data_changes(old.get("sites", []), now["sites"])):
        progress.note(f"{text}; the rounds from here on may not repeat this run bit by bit")
    for name in ("metrics.jsonl", "sites.jsonl"):
        directory.drop_rounds_after(name, training.round)
    sites, before = joined_sites(old.get("sites", []), now["sites"]), earlier(old, now, training.round)
    directory.write_json("manifest.json", {**now, "sites": sites, **({"earlier": before} if before else {})})


def _quietly(what: str, action: Callable[[], object]) -> None:
    """Make ``what``, which no verdict on the run depends on; a failure is told and changes nothing."""
    try:
        action()
    except Exception as error:
        Console(stderr=True).print(f"({what} could not be made: {error})", highlight=False, markup=False)
