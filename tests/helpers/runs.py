"""Runs and commands in the test's own process: whole, resumed, interrupted, and over deployed sites."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

import client.app
import client.simulated
import server.app
import tests.helpers.toy  # noqa: F401 - registers the data set `toy`
from fedrecon_core.data.dataset import forget_datasets
from fedrecon_core.local.hook import LocalHook
from server import cli
from server.engines.base import Job
from server.engines.inprocess import RUN_ID, SERVER_NODE, InProcess, InProcessGrid
from server.engines.pool import Here
from server.runs.setup import RunSetup, create_run, resume_run
from server.training.rounds import Rounds

CLOCK = "_seconds"


def settings(**changes: Any) -> dict[str, Any]:
    """A run of the toy data set with half of the modalities missing everywhere, as plain YAML values."""
    level = {"level": "sample", "rate": 0.5}
    return {
        "name": "toy",
        "rounds": 3,
        "data": {"name": "toy", "scale": "standard"},
        "sites": {"count": 3},
        "missing": {"train": level, "validation": level, "test": level},
        "recovery": {"name": "fedrecon", "latent": 4, "warmup_rounds": 1, "mapping": {"hidden": [8]}},
        "local": {"task": {"lr": 0.01}},
        **changes,
    }


def write(folder: Path, raw: dict[str, Any]) -> Path:
    """``raw`` as a config file in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config-in.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def run(folder: Path, raw: dict[str, Any]) -> Path:
    """A whole run; returns its directory."""
    prepared = create_run(write(folder, raw), out=folder / "run")
    InProcess().run(Job.of(prepared))
    return prepared.directory.path


def split_sites(config: Path) -> Path:
    """``fedrecon data split`` of a config; returns the folder ``sites`` next to it, with ``federation.yaml``."""
    sites = config.parent / "sites"
    arguments = ["data", "split", str(config), "--out", str(sites)]
    done = CliRunner().invoke(cli.application, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return sites


def resume(directory: Path) -> Path:
    """Resume the run in ``directory``."""
    InProcess().run(Job.of(resume_run(directory), resume=True))
    return directory


def result(directory: Path) -> dict[str, Any]:
    """``result.json``."""
    found: dict[str, Any] = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return found


def lines(directory: Path, name: str = "sites.jsonl") -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


def without_clock(value: Any) -> Any:
    """``value`` without fields of wall-clock time."""
    if isinstance(value, dict):
        return {key: without_clock(item) for key, item in value.items() if not key.endswith(CLOCK)}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def outcome(directory: Path, names: Iterable[str] = ("metrics.jsonl", "sites.jsonl")) -> dict[str, Any]:
    """All metrics and results of a run, without wall-clock fields."""
    found: dict[str, Any] = {name: without_clock(lines(directory, name)) for name in names}
    return {**found, "result": without_clock(result(directory))}


def forget() -> None:
    """Close every data set and site that this process keeps open."""
    forget_datasets()
    client.simulated._open.clear()


# --- interrupted runs -------------------------------------------------------------------------------------------------


def stop_in(round_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt every run when it is about to validate ``round_``."""
    original = Rounds._validate

    def crash(self: Rounds, current: int) -> Any:
        if current == round_:
            raise KeyboardInterrupt
        return original(self, current)

    monkeypatch.setattr(Rounds, "_validate", crash)


class Momentum(LocalHook):
    """A local hook that counts its rounds in the site's state, and scales gradients by the count."""

    def begin(self, local_context: Any, memory: Any) -> None:
        self.seen = memory.kept.get("seen", {"rounds": torch.zeros(1)})["rounds"]

    def gradients(self, parameters: Any) -> None:
        for _, parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1 + float(self.seen))

    def end(self, paces: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"seen": {"rounds": self.seen + 1}}


# --- deployed sites in one process ------------------------------------------------------------------------------------


def node_configs(folders: Path, states: Path) -> dict[str, dict[str, Any]]:
    """Site name -> node config, for a folder of site folders."""
    found = sorted(path for path in folders.iterdir() if path.is_dir())
    return {path.name: {"site": path.name, "data": str(path), "state": str(states / path.name)} for path in found}


class SiteGrid(InProcessGrid):
    """An in-process grid whose nodes have the given node configs. ``connected(names)`` selects the connected ones each
    time the server asks; node ids follow the order of ``configs``."""

    def __init__(
        self,
        job: Job,
        configs: Mapping[str, Mapping[str, Any]],
        connected: Callable[[list[str]], list[str]] = lambda names: names,
    ) -> None:
        super().__init__(job, Here(client.app.app))
        self.node_of = {name: SERVER_NODE + 1 + index for index, name in enumerate(configs)}
        self._connected = connected
        for name, config in configs.items():
            node = self.node_of[name]
            self._contexts[node] = Context(RUN_ID, node, {"partition-id": node, **config}, RecordDict(), {})

    def get_node_ids(self) -> list[int]:
        return [self.node_of[name] for name in self._connected(list(self.node_of))]


def deploy(
    prepared: RunSetup,
    configs: Mapping[str, Mapping[str, Any]],
    connected: Callable[[list[str]], list[str]] = lambda names: names,
) -> SiteGrid:
    """Run ``prepared`` over the sites; return the grid."""
    job = Job(prepared.directory.config, prepared.directory.path, False, sites=len(configs))
    grid = SiteGrid(job, configs, connected)
    server.app.run(grid, prepared)
    return grid


# --- the command ------------------------------------------------------------------------------------------------------

Outcome = tuple[int, str, str]
"""Exit code, stdout, stderr."""


def caller(monkeypatch, capsys) -> Callable[..., Outcome]:
    """A function that takes the command's arguments."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fedrecon", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return call


def refused(outcome: Outcome, *words: str) -> None:
    """Assert exit code 2, no output, and one line of error with all ``words``."""
    code, out, err = outcome
    assert code == 2, outcome
    assert out == ""
    assert err.startswith("fedrecon: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
