"""Register the sites of a run (round 0): find them, get a description of their data, and check that all are
compatible."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from flwr.app import Message

from fedrecon_core.data.allocation import ServerData, allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.site_data import open_site
from fedrecon_core.data.statistics import Statistics, Sums, combine, same_values, site_sums
from fedrecon_core.errors import ConfigError, RunError
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import SPLITS, DatasetSpec
from server.federation.messaging import Channel
from server.federation.registry import SiteRegistry
from server.runs.setup import checked_recovery
from strategies import messages
from strategies.code_hash import code_hash
from strategies.federation import Federation
from strategies.messages import SiteInfo

POLL_SECONDS = 0.2
ASKED = 16
"""How many simulated sites are asked for their description. The server knows the samples of each, since it assigned
them; a few descriptions are enough to check that the processes of the sites run the same code on the same values. All
later replies contain the hashes of code and data specification again, but no values."""


@dataclass(frozen=True)
class RunSites:
    """The sites of a run and the server's data about them. ``server_data`` is None if only the sites have data,
    ``registry`` is None if the sites are simulated and thus always present."""

    federation: Federation
    recovery: Recovery
    server_data: ServerData | None = None
    registry: SiteRegistry | None = None

    @property
    def assigned(self) -> ServerData | None:
        """The server's data if it assigned them to the sites."""
        return self.server_data if self.federation.shares else None

    def refresh(self, round_: int) -> None:
        """Update the federation before a round. Raises ``RunError`` if too few sites are connected."""
        if self.registry is not None:
            self.federation.nodes = self.registry.refresh(round_)
            _add_sites(self.federation, self.recovery, self.registry.infos())

    def mark_stale(self, names: Iterable[str]) -> None:
        """Ask these sites for their description before they take part again, since they failed or have changed."""
        if self.registry is not None:
            self.registry.mark_stale(names)


def register_sites(
    channel: Channel,
    run: str,
    statistics: Mapping[str, Statistics] | None = None,
    spec: str | None = None,
    server_data: ServerData | None = None,
) -> RunSites:
    """Find the sites, assign samples to them if the server has the data, and get a description of each site's data.

    ``run`` is the folder in which sites store their state, or its name (``TrainInstruction.run``). ``statistics`` are
    those of a resumed run, ``spec`` the hash of its data specification. ``server_data``: the data of the server, if
    they have been loaded and allocated already. Raises ``RunError`` if too few sites connect within ``sites.wait``
    seconds, or if a site is not compatible with the run.
    """
    config = channel.config
    if server_data is None and config.has_central_data:
        dataset = load_dataset(config)
        server_data = ServerData(dataset, allocate(dataset, config))
    if config.engine.simulated and server_data is not None:
        return _simulated_sites(channel, run, dict(statistics or {}), server_data)
    return _deployed_sites(channel, run, dict(statistics or {}), spec, server_data)


# --- sites with data of their own -----------------------------------------------------------------------------------


def _deployed_sites(
    channel: Channel, run: str, statistics: dict[str, Statistics], spec: str | None, server_data: ServerData | None
) -> RunSites:
    config, name = channel.config, channel.config.recovery.name
    if RECOVERIES.get(name).reads_absent:
        raise ConfigError(f"recovery.name: {name} reads absent data, which exist only in a simulation; choose another")
    federation = Federation(config, DatasetSpec(name="", modalities=(), classes=()), run, {}, {}, {})
    federation.statistics = statistics
    known = spec if server_data is None else server_data.dataset.spec.digest()
    registry = SiteRegistry(channel, federation.config_json, run, known)
    federation.nodes = registry.refresh(0)
    infos = registry.infos()
    own = infos[min(infos)].own
    assert own is not None  # the registry accepts only sites with their own data
    federation.spec = DatasetSpec.model_validate_json(own.spec)
    recovery = checked_recovery(config, federation.spec)
    _add_sites(federation, recovery, infos)
    for split in ("validation", "test"):  # reported now and not after weeks of training
        if server_data is None and not federation.holders(split):
            raise RunError(
                f"no connected site has {split} samples, so no model could be selected and tested: mark some in "
                "the split column of a site's samples.parquet, or score at the server (evaluate.where: server)"
            )
    return RunSites(federation, recovery, server_data, registry)


def _add_sites(federation: Federation, recovery: Recovery, infos: Mapping[str, SiteInfo]) -> None:
    """Add the sites that are new or have changed, with their transfer plans. The statistics of the beginning of the run
    are kept; a late site only adds those of modalities that no site had before."""
    news = {name: info for name, info in infos.items() if federation.sites.get(name) != info}
    federation.sites.update(news)
    federation.plans.update({name: recovery.plan(info.modalities) for name, info in news.items()})
    for split in ("validation", "test"):
        plans = federation.held_out_plans.setdefault(split, {})
        for name, info in news.items():
            plans[name] = recovery.plan(info.own.holdings[split].modalities if info.own else ())
    for modality, found in combine(news[name].sums for name in sorted(news)).items():
        federation.statistics.setdefault(modality, found)


# --- simulated sites ------------------------------------------------------------------------------------------------


def _simulated_sites(
    channel: Channel, run: str, statistics: dict[str, Statistics], server_data: ServerData
) -> RunSites:
    config, dataset, allocation = channel.config, server_data.dataset, server_data.allocation
    recovery = recovery_for(config, dataset.spec)
    plan = functools.cache(recovery.plan)  # one for all sites with the same modalities
    present: dict[str, dict[str, tuple[str, ...]]] = {split: {} for split in SPLITS}
    for split, sites in present.items():
        for name, share in getattr(allocation, split).items():
            sites[name] = tuple(m for column, m in enumerate(dataset.spec.names) if share.present[:, column].any())
    plans = {split: {name: plan(modalities) for name, modalities in sites.items()} for split, sites in present.items()}
    deadline = time.monotonic() + config.sites.wait
    while not (nodes := sorted(channel.grid.get_node_ids())):  # nodes connect after the ServerApp has started
        if time.monotonic() > deadline:
            wait = f"{config.sites.wait:g} s (sites.wait)"
            raise RunError(f"no node connected within {wait}; is the federation running?")
        time.sleep(POLL_SECONDS)
    code, spec, names = code_hash(config.plugins), dataset.spec.digest(), sorted(allocation.train)
    expected = {}  # the description of each site, without sums, for which its rows would have to be read
    for name in names:
        samples = len(allocation.train[name].samples)
        expected[name] = SiteInfo(name, code, spec, present["train"][name], samples, sums={})
    federation = Federation(
        config,
        dataset.spec,
        run,
        sites=expected,
        nodes={name: nodes[index % len(nodes)] for index, name in enumerate(names)},  # any node may run any site
        plans=plans["train"],
        shares=dict(allocation.train),
        held_out={"validation": allocation.validation, "test": allocation.test},
        held_out_plans={split: plans[split] for split in ("validation", "test")},
    )
    described = _ask(channel, federation)
    federation.statistics = _statistics(statistics, described, server_data)
    return RunSites(federation, recovery, server_data)


def _ask(channel: Channel, federation: Federation) -> dict[str, SiteInfo]:
    """Ask the first ``ASKED`` sites for their description. Raises ``RunError`` if one is not as expected, if all sites
    fail, or more than the number of sites minus ``sites.min`` (default: none may fail).

    A site that fails stays in the run: the server knows its data, and the rounds count its failures, like those of
    sites that were not asked. A temporary fault thus changes neither the statistics nor the sampling of sites.
    """
    config, names = channel.config, sorted(federation.nodes)
    asked = [
        Message(
            messages.write_instruction(federation.instruction(name, 0)),
            dst_node_id=federation.nodes[name],
            message_type=messages.DESCRIBE_TYPE,
        )
        for name in names[:ASKED]
    ]
    replies = channel.exchange(asked)
    least = config.sites.min or len(names)
    spare = min(max(len(names) - least, 0), len(asked) - 1)
    if len(replies.failures) > spare:
        raise RunError(
            f"{len(replies.received)} of the {len(asked)} sites that were asked sent a description; at least {least} "
            f"of all {len(names)} sites must be connected (sites.min), so at most {spare} may fail here. "
            f"{replies.reasons()}"
        )
    if replies.failures:
        channel.note(f"round 0: {replies.answered()}; {replies.reasons()}")
    described = {name: messages.read_site_info(content) for name, content in sorted(replies.received.items())}
    for name, found in described.items():
        known = federation.sites[name]
        for what, reported, expected in (
            ("runs other code: expected code hash", found.code_hash, known.code_hash),
            ("has another data set: expected spec hash", found.spec_hash, known.spec_hash),
            ("has other samples: expected the number", found.samples, known.samples),
            ("has other samples: expected the modalities", found.modalities, known.modalities),
        ):
            if reported != expected:
                raise RunError(f"site {name} {what} {expected}, found {reported}")
    return described


def _statistics(
    known: dict[str, Statistics], described: Mapping[str, SiteInfo], server_data: ServerData
) -> dict[str, Statistics]:
    """The statistics over all sites, in sorted order. If a resumed run has them (``known``), only the sums of the sites
    in ``described`` are computed, to check that those have the values that they were assigned.

    The server computes the sums of the assigned samples itself. On the same kind of machine they are bit by bit those
    that sites would report. It reads one site at a time, since large samples of all sites may not fit into memory.
    """
    dataset, allocation = server_data.dataset, server_data.allocation

    def sums() -> Iterator[Mapping[str, Sums]]:
        for name in sorted(described if known else allocation.train):
            share = allocation.train[name]
            own = site_sums(open_site(dataset, share.samples, share.present, device=torch.device("cpu")))
            if name in described:
                found = described[name].sums
                strange = [m for m in own if m not in found or not same_values(found[m], own[m])]
                if strange:
                    raise RunError(
                        f"site {name} has other values of {', '.join(strange)} than those assigned to it: expected the "
                        "same data on every machine, found other sums over its rows; compare the contents of data.root"
                    )
            yield own

    found = combine(sums())
    return known or found
