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

from fedrecon_core.errors import FedReconError
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State
from server import checkpoint
from server.evaluation import evaluator_for
from server.handshake import Started, shake_hands
from server.prepare import Prepared, prepare, reopen
from server.progress import progress_for
from server.report.html import write_report
from server.rounds import Rounds, first_state
from server.run_directory import RunDirectory
from server.run_pictures import draw_reconstructions
from strategies.code_hash import code_hash

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
    if out and (bool(context.run_config.get("resume")) or Path(config) == Path(out) / "config.yaml"):
        return reopen(Path(out))
    return prepare(Path(config) if config else None, out=Path(out) if out else None)


def run(grid: Grid, prepared: Prepared, named: bool = True) -> None:
    """Train, evaluate, report. ``named``: the run config names the run directory, so that sites know it, too."""
    began = time.perf_counter()
    directory = prepared.directory
    try:
        result = _run(grid, prepared, "" if named else str(directory.path))
    except BaseException as error:
        failed = {**_failure(error), "rounds": _rounds_done(directory)}
        directory.write_json("result.json", {**failed, "wall_seconds": time.perf_counter() - began})
        _quietly(lambda: write_report(directory.path))
        raise
    directory.write_json("result.json", {"status": "completed", **result, "wall_seconds": time.perf_counter() - began})
    write_report(directory.path)


def _failure(error: BaseException) -> dict[str, Any]:
    """Status and reason of a run that ended before its last round."""
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "error": "interrupted", "exit_code": 130}
    reason = str(error) if isinstance(error, FedReconError) else f"{type(error).__name__}: {error}"
    return {"status": "failed", "error": reason, "exit_code": getattr(error, "exit_code", 1)}


def _rounds_done(directory: RunDirectory) -> int:
    """The round of the newest checkpoint."""
    found = sorted(path.name for path in directory.checkpoints.glob("round-*"))
    return int(found[-1].removeprefix("round-")) if found else 0


def _run(grid: Grid, prepared: Prepared, home: str) -> dict[str, Any]:
    config, directory = prepared.config, prepared.directory
    started = shake_hands(grid, config, home)
    strategy_class: Any = STRATEGIES.get(config.strategy.name)
    strategy = strategy_class(started.federation)
    training = first_state(started, lambda: checkpoint.load_newest(directory.checkpoints))
    started.federation.trained.update(training.trained)
    started.federation.quality.update(training.quality)
    strategy.load_state(training.strategy)
    for name in ("metrics.jsonl", "sites.jsonl"):
        directory.drop_rounds_after(name, training.round)
    directory.write_json("manifest.json", _manifest(prepared, started, training.groups))
    progress = progress_for(Console(), config.rounds, training.round + 1)
    evaluator = evaluator_for(started, strategy, grid, directory.path)
    progress.open()
    try:
        rounds = Rounds(grid, config, started, strategy, evaluator, directory, progress, training)
        result = rounds.run()
    finally:
        progress.close()
    draw_reconstructions(directory, started)
    return result


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
        "full_bytes": sum(t.numel() * t.element_size() for state in groups.values() for t in state.values()),
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


def _quietly(action: Callable[[], object]) -> None:
    """Run ``action`` for what it may add to a failure that is already on its way to the user."""
    try:
        action()
    except Exception as error:  # the first failure is the one to report
        Console(stderr=True).print(f"(the report could not be written: {error})", highlight=False)
