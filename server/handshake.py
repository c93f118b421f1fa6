"""Round 0: find the sites, ask who they are, hand simulated ones their samples, and check that all run the same."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Allocation, Share, allocate
from fedrecon_core.data.dataset import Dataset, load_dataset
from fedrecon_core.data.statistics import combine
from fedrecon_core.errors import RunError
from fedrecon_core.recovery.base import Recovery, recovery_for
from server.exchange import Deadline, exchange
from strategies import messages
from strategies.code_hash import code_hash
from strategies.federation import Federation
from strategies.messages import SiteInfo
from strategies.wire import WireMeter

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Started:
    """What the handshake leaves: the federation, its recovery, and the server's own copy of the data."""

    federation: Federation
    recovery: Recovery
    dataset: Dataset
    allocation: Allocation


def shake_hands(grid: Grid, config: RunConfig, run: str, meter: WireMeter) -> Started:
    """Find the nodes, share out the data, and learn what each site holds.

    Raises ``RunError`` when no node connects within ``sites.wait`` seconds, or when a site runs other code.
    """
    dataset = load_dataset(config)
    allocation = allocate(dataset, config)
    recovery = recovery_for(config, dataset.spec)
    federation = Federation(config, dataset.spec, run, {}, {}, {})
    federation.nodes = _hands(_wait_for_nodes(grid, config), sorted(allocation.train))
    federation.shares = dict(allocation.train)
    federation.sites = _describe(grid, federation, meter)
    federation.nodes = {name: federation.nodes[name] for name in federation.sites}
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
    """The node ids, once there are any: the list is empty at the start."""
    deadline = time.monotonic() + config.sites.wait
    while not (nodes := sorted(grid.get_node_ids())):
        if time.monotonic() > deadline:
            raise RunError(f"no node connected within {config.sites.wait:g} s (sites.wait); is the federation running?")
        time.sleep(POLL_SECONDS)
    return nodes


def _hands(nodes: list[int], names: list[str]) -> dict[str, int]:
    """Site name -> the node that acts for it. Simulated nodes only lend their hands, so any number of them will do."""
    return {name: nodes[index % len(nodes)] for index, name in enumerate(names)}


def _describe(grid: Grid, federation: Federation, meter: WireMeter) -> dict[str, SiteInfo]:
    """Hand every site its samples and read what it says of itself; fewer than ``sites.min`` answers end the run."""
    asked = [
        Message(messages.write_order(federation.order(name, 0)), dst_node_id=node, message_type=messages.DESCRIBE_TYPE)
        for name, node in federation.nodes.items()
    ]
    replies = exchange(grid, asked, deadline_of(federation.config), meter)
    count, least = len(asked), federation.config.sites.min or len(asked)
    if len(replies.messages) < least:
        answered = f"{len(replies.messages)} of {count} sites said who they are"
        raise RunError(f"{answered}, at least {least} must (sites.min). {replies.reasons()}")
    return {name: messages.read_site(reply.content) for name, reply in sorted(replies.messages.items())}


def deadline_of(config: RunConfig) -> Deadline:
    """How long the server waits for sites: in a simulation they take turns."""
    return Deadline(config.sites.timeout, lanes=config.engine.workers)


def _agree(sites: Iterable[SiteInfo], dataset: Dataset) -> None:
    """Every site must run this code on this data specification."""
    mine, spec = code_hash(), dataset.spec.digest()
    for site in sites:
        if site.code_hash != mine:
            raise RunError(f"site {site.name} runs other code: expected code hash {mine}, found {site.code_hash}")
        if site.spec_hash != spec:
            raise RunError(f"site {site.name} has another data set: expected spec hash {spec}, found {site.spec_hash}")
