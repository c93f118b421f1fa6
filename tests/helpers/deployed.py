"""A deployment in one process: nodes that bring site folders, come and go, and answer through the real ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict

import client.app
import server.app
from server.engines.base import Job
from server.engines.inprocess import RUN_ID, SERVER_NODE, InProcessGrid
from server.engines.pool import Here
from server.runs.setup import RunSetup


def node_configs(folders: Path, states: Path) -> dict[str, dict[str, Any]]:
    """Site name -> node config, for a folder of site folders."""
    found = sorted(path for path in folders.iterdir() if path.is_dir())
    return {path.name: {"site": path.name, "data": str(path), "state": str(states / path.name)} for path in found}


class SiteGrid(InProcessGrid):
    """An in-process grid whose nodes have the given node configs. ``connected(names)`` picks those that are there each
    time the server looks; node ids follow the order of ``configs``."""

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
    """Run ``prepared`` over the sites; the grid is returned for a look at it."""
    job = Job(prepared.directory.config, prepared.directory.path, False, sites=len(configs))
    grid = SiteGrid(job, configs, connected)
    server.app.run(grid, prepared)
    return grid
