"""Round 0: find the sites, ask who they are, hand simulated ones their samples, and check that all run the same."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Allocation, Share, allocate, site_name
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.statistics import combine
from fedrecon_core.errors import RunError
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.registry import DATASETS, RECOVERIES
from server.exchange import Deadline, exchange
from strategies import messages
from strategies.code_hash import code_hash
from strategies.federation import Federation
from strategies.messages import Order, SiteInfo

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Started:
    """What the handshake leaves: the federation, its recovery, and the server's own copy of the data."""

    federation: Federation
    recovery: Recovery
    dataset: Dataset
    allocation: Allocation


def load_dataset(config: RunConfig) -> Dataset:
    """The data set of ``config`` as the server reads it."""
    loader: Any = DATASETS.get(config.data.name)
    root = None if config.data.root is None else Path(config.data.root)
    dataset: Dataset = loader().load(config.data, root, config.seed)
    return dataset


def shake_hands(grid: Grid, config: RunConfig, run: str) -> Started:
    """Wait for the sites, learn who they are, and share out the data.

    Raises ``RunError`` when fewer than ``sites.min`` sites connect within ``sites.wait`` seconds, or when a site runs
    other code.
    """
    dataset = load_dataset(config)
    allocation = allocate(dataset, config)
    cls: Any = RECOVERIES.get(config.recovery.name)
    recovery: Recovery = cls(config, dataset.spec)
    nodes = _wait_for_nodes(grid, config)
    federation = Federation(config, dataset.spec, run, {}, {}, {})
    federation.nodes = _names(grid, config, federation, nodes)
    federation.shares = {name: allocation.train[name] for name in federation.nodes}
    federation.sites = _describe(grid, config, federation)
    _agree(federation.sites.values(), dataset)
    federation.plans = {name: recovery.plan(site.modalities) for name, site in federation.sites.items()}
    federation.held_out = {"validation": allocation.validation, "test": allocation.test}
    federation.held_out_plans = {
        split: {name: recovery.plan(_shown(share, dataset)) for name, share in shares.items()}
        for split, shares in federation.held_out.items()
    }
    federation.statistics = combine(federation.sites[name].sums for name in sorted(federation.sites))
    return Started(federation, recovery, dataset, allocation)


def _shown(share: Share, dataset: Dataset) -> tuple[str, ...]:
    return tuple(name for column, name in enumerate(dataset.spec.names) if share.present[:, column].any())


def _wait_for_nodes(grid: Grid, config: RunConfig) -> list[int]:
    """The node ids once ``sites.count`` are there, or after ``sites.wait`` seconds if at least ``sites.min`` are."""
    least = config.sites.min or config.sites.count
    deadline = time.monotonic() + config.sites.wait
    nodes = sorted(grid.get_node_ids())
    while len(nodes) < config.sites.count and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        nodes = sorted(grid.get_node_ids())
    if len(nodes) < least:
        raise RunError(
            f"{len(nodes)} of {config.sites.count} sites connected within {config.sites.wait:g} s, "
            f"at least {least} are needed (sites.min); start more sites or raise sites.wait"
        )
    return nodes


def _names(grid: Grid, config: RunConfig, federation: Federation, nodes: list[int]) -> dict[str, int]:
    """Site name -> node id: the server cannot see a node's config, so it asks."""
    infos = _ask(
        grid, config, {str(node): node for node in nodes}, {str(node): federation.order("", 0) for node in nodes}
    )
    wanted = {site_name(index) for index in range(config.sites.count)}
    found = {info.name: int(node) for node, info in infos.items() if info.name in wanted}
    if len(found) < (config.sites.min or config.sites.count):
        raise RunError(f"expected the sites site-0000 to {site_name(config.sites.count - 1)}, found {sorted(found)}")
    return dict(sorted(found.items()))


def _describe(grid: Grid, config: RunConfig, federation: Federation) -> dict[str, SiteInfo]:
    orders = {name: federation.order(name, 0) for name in federation.nodes}
    return _ask(grid, config, federation.nodes, orders)


def _ask(grid: Grid, config: RunConfig, nodes: dict[str, int], orders: dict[str, Order]) -> dict[str, SiteInfo]:
    """Query every node and read its description; a site that cannot answer ends the run with its reason."""
    asked = [_query(node, messages.write_order(orders[name])) for name, node in nodes.items()]
    replies = exchange(grid, asked, {node: name for name, node in nodes.items()}, deadline_of(config))
    if replies.failures:
        name, reason = sorted(replies.failures.items())[0]
        raise RunError(f"site {name} could not say who it is: {reason}")
    return {name: messages.read_site(reply.content) for name, reply in sorted(replies.messages.items())}


def deadline_of(config: RunConfig) -> Deadline:
    """How long the server waits for sites: in a simulation they take turns."""
    return Deadline(config.sites.timeout, lanes=config.engine.workers)


def _query(node: int, content: RecordDict) -> Message:
    return Message(content, dst_node_id=node, message_type=messages.DESCRIBE_TYPE)


def _agree(sites: Iterable[SiteInfo], dataset: Dataset) -> None:
    """Every site must run this code on this data specification."""
    mine, spec = code_hash(), dataset.spec.digest()
    for site in sites:
        if site.code_hash != mine:
            raise RunError(f"site {site.name} runs other code: expected code hash {mine}, found {site.code_hash}")
        if site.spec_hash != spec:
            raise RunError(f"site {site.name} has another data set: expected spec hash {spec}, found {site.spec_hash}")
