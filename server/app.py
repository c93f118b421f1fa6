"""The ServerApp: from a config and a run directory to a finished run, or to a result that says why not."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedrecon_core.errors import FedReconError, RunError, UsageError
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State, group_bytes
from server import checkpoint
from server.checkpoint import Training
from server.evaluation import evaluator_for
from server.handshake import Started, shake_hands
from server.prepare import Prepared, prepare, reopen
from server.progress import PlainProgress, progress_for
from server.report.html import write_report
from server.rounds import Rounds, first_state
from server.run_pictures import draw_reconstructions
from strategies.code_hash import code_hash
from strategies.wire import WireMeter

app = ServerApp()
VERSIONS = ("fedrecon", "flwr", "ray", "torch", "numpy")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run what the run config asks for. A failed run leaves ``result.json`` with its reason and raises."""
    torch.set_num_threads(1)  # results depend on the number of threads
    run(grid, _prepared(context), named=bool(context.run_config.get("out")))


def _prepared(context: Context) -> Prepared:
    """The run that the command prepared, or a new one for those who use ``flwr run``."""
    config, out = str(context.run_config.get("config") or ""), str(context.run_config.get("out") or "")
    resume = bool(context.run_config.get("resume"))
    if resume and not out:
        raise UsageError("resume needs out, the directory of the run to go on with")
    if resume or (out and Path(config) == Path(out) / "config.yaml"):
        return reopen(Path(out))
    return prepare(Path(config) if config else None, out=Path(out) if out else None)


def run(grid: Grid, prepared: Prepared, named: bool = True) -> None:
    """Train, evaluate, report. ``named``: the run config names the run directory, so that sites know it, too."""
    directory = prepared.directory
    try:
        started, result = _run(grid, prepared, "" if named else str(directory.path))
    except BaseException as error:
        rounds = checkpoint.newest_round(directory.checkpoints)
        directory.write_json("result.json", {**_failure(error), "rounds": rounds})
        _quietly("report.html", lambda: write_report(directory.path))
        raise
    directory.write_json("result.json", {"status": "completed", **result})
    _quietly("reconstructions.png", lambda: draw_reconstructions(directory, started))
    _quietly("report.html", lambda: write_report(directory.path))


def _failure(error: BaseException) -> dict[str, Any]:
    """Status and reason of a run that ended before its last round."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": "interrupted", "exit_code": 130}
    reason = str(error) if isinstance(error, FedReconError) else f"{type(error).__name__}: {error}"
    return {"status": "failed", "error": reason, "exit_code": getattr(error, "exit_code", 1)}


def _run(grid: Grid, prepared: Prepared, home: str) -> tuple[Started, dict[str, Any]]:
    config, directory = prepared.config, prepared.directory
    began = time.perf_counter()
    known = checkpoint.load_newest(directory.checkpoints)
    meter = WireMeter(known.wire_bytes if known else 0)
    progress = progress_for(Console(), config.rounds, 1 + (known.round if known else 0))
    progress.open()
    try:
        started = shake_hands(grid, config, home, meter)
        training = first_state(started, known)
        strategy = _strategy(started, training)
        _take_up(prepared, started, training, progress)
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


def _take_up(prepared: Prepared, started: Started, training: Training, progress: PlainProgress) -> None:
    """Write the manifest, and see that a resumed run goes on with the data that it began with."""
    directory, manifest = prepared.directory, _manifest(prepared, started, training.groups)
    old = directory.read_json("manifest.json") if training.round else {}
    for key, thing in (("spec_sha256", "data set"), ("partition_sha256", "partition"), ("mask_sha256", "masks")):
        if old.get(key, manifest[key]) != manifest[key]:
            raise RunError(f"cannot resume: the {thing} changed, expected {key} {old[key]}, found {manifest[key]}")
    if old.get("code_sha256", manifest["code_sha256"]) != manifest["code_sha256"]:
        progress.note("this run began with other code; the rounds from here on may not repeat it bit by bit")
    for name in ("metrics.jsonl", "sites.jsonl"):
        directory.drop_rounds_after(name, training.round)
    directory.write_json("manifest.json", manifest)


def _manifest(prepared: Prepared, started: Started, groups: dict[str, State]) -> dict[str, Any]:
    """What was run, on what, by which code."""
    config, federation, allocation = prepared.config, started.federation, started.allocation
    versions = {name: metadata.version(name) for name in VERSIONS}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "seed": config.seed,
        "engine": config.engine.name,
        "code_sha256": code_hash(),
        "spec_sha256": federation.spec.digest(),
        "partition_sha256": allocation.partition_sha256,
        "mask_sha256": allocation.mask_sha256,
        "parameters": checkpoint.manifest_of(groups),
        "full_bytes": sum(map(group_bytes, groups.values())),
        "modalities": list(federation.spec.names),
        "classes": list(federation.spec.classes),
        "sites": [_site(name, started) for name in sorted(federation.sites)],
        "effective_missing": allocation.effective_rates,
    }


def _site(name: str, started: Started) -> dict[str, Any]:
    share, dataset = started.allocation.train[name], started.dataset
    labels = dataset.labels[share.samples]
    return {
        "name": name,
        "samples": len(labels),
        "modalities": {
            m: float(share.present[:, column].mean()) if len(labels) else 0.0
            for column, m in enumerate(dataset.spec.names)
        },
        "classes": [int((labels == index).sum()) for index in range(len(dataset.spec.classes))],
    }


def _quietly(what: str, action: Callable[[], object]) -> None:
    """Make ``what``, which no verdict on the run depends on; a failure is told and changes nothing."""
    try:
        action()
    except Exception as error:
        Console(stderr=True).print(f"({what} could not be made: {error})", highlight=False)
