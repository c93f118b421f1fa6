"""Register the sites of a run (round 0): find them, learn what data each has, and check that all fit together."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from flwr.app import Message

from fedrecon_core.data.allocation import ServerData, Share, allocate
from fedrecon_core.data.dataset import Dataset, load_dataset
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
"""How many simulated sites are asked for their description. The server knows what each holds, since it assigned the
samples; a few descriptions show whether the processes that act for the sites run this code on these values. Every reply
of a round has the hashes of code and data specification again, and no values."""


@dataclass(frozen=True)
class RunSites:
    """The sites of a run, and what the server knows of them. ``server_data`` is None where only the sites have data,
    ``registry`` where the sites are simulated: those are present from the first round to the last."""

    federation: Federation
    recovery: Recovery
    server_data: ServerData | None = None
    registry: SiteRegistry | None = None

    @property
    def assigned(self) -> ServerData | None:
        """The server's data where it assigned them to the sites."""
        return self.server_data if self.federation.shares else None

    def refresh(self, round_: int) -> None:
        """Bring the federation up to date before a round. Raises ``RunError`` if too few sites are connected."""
        if self.registry is not None:
            self.federation.nodes = self.registry.refresh(round_)
            _add_sites(self.federation, self.recovery, self.registry.infos())

    def mark_stale(self, names: Iterable[str]) -> None:
        """Ask these sites for their description again before they take part again: they failed, or have changed."""
        if self.registry is not None:
            self.registry.mark_stale(names)


def register_sites(
    channel: Channel,
    run: str,
    statistics: Mapping[str, Statistics] | None = None,
    spec: str | None = None,
    server_data: ServerData | None = None,
) -> RunSites:
    """Find the sites, assign the data where the server has them, and learn what data each site has.

    ``run`` is where, or under which name, sites store their state. ``statistics`` are those of a resumed run, ``spec``
    the hash of its data specification. ``server_data`` are the data of the server, where they have been loaded and
    allocated already. Raises ``RunError`` when too few sites connect within ``sites.wait`` seconds, or
    when a site does not fit the run.
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
        raise ConfigError(f"recovery.name: {name} reads absent data, which only a simulation has; choose another one")
    federation = Federation(config, DatasetSpec(name="", modalities=(), classes=()), run, {}, {}, {})
    federation.statistics = statistics
    known = spec if server_data is None else server_data.dataset.spec.digest()
    registry = SiteRegistry(channel, federation.config_json, run, known)
    federation.nodes = registry.refresh(0)
    infos = registry.infos()
    own = infos[min(infos)].own
    assert own is not None  # the registry accepts no other site
    federation.spec = DatasetSpec.model_validate_json(own.spec)
    recovery = checked_recovery(config, federation.spec)
    _add_sites(federation, recovery, infos)
    for split in ("validation", "test"):  # better now than after weeks of training
        if server_data is None and not federation.holders(split):
            raise RunError(
                f"no connected site holds {split} samples, so that no model could be chosen and tested: put some into "
                "the split column of a site's samples.parquet, or score at the server (evaluate.where: server)"
            )
    return RunSites(federation, recovery, server_data, registry)


def _add_sites(federation: Federation, recovery: Recovery, infos: Mapping[str, SiteInfo]) -> None:
    """Plan for the sites that are new or came back changed. The statistics stay those that the run began with; a late
    site only adds those of a modality that no site had before."""
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
    plan = functools.cache(recovery.plan)  # sites with the same modalities share it
    plans = {
        split: {name: plan(_modalities(share, dataset)) for name, share in getattr(allocation, split).items()}
        for split in SPLITS
    }
    deadline = time.monotonic() + config.sites.wait
    while not (nodes := sorted(channel.grid.get_node_ids())):  # the list is empty at the start
        if time.monotonic() > deadline:
            wait = f"{config.sites.wait:g} s (sites.wait)"
            raise RunError(f"no node connected within {wait}; is the federation running?")
        time.sleep(POLL_SECONDS)
    code, spec, names = code_hash(config.plugins), dataset.spec.digest(), sorted(allocation.train)
    expected = {}  # the description that each site should give, without its sums: for those its rows must be read
    for name in names:
        share = allocation.train[name]
        expected[name] = SiteInfo(name, code, spec, _modalities(share, dataset), len(share.samples), sums={})
    federation = Federation(
        config,
        dataset.spec,
        run,
        sites=expected,
        nodes={name: nodes[index % len(nodes)] for index, name in enumerate(names)},  # any node may act for any site
        plans=plans["train"],
        shares=dict(allocation.train),
        held_out={"validation": allocation.validation, "test": allocation.test},
        held_out_plans={split: plans[split] for split in ("validation", "test")},
    )
    described = _ask(channel, federation)
    federation.statistics = _statistics(statistics, described, server_data)
    return RunSites(federation, recovery, server_data)


def _modalities(share: Share, dataset: Dataset) -> tuple[str, ...]:
    """The modalities that some sample of ``share`` shows."""
    return tuple(name for column, name in enumerate(dataset.spec.names) if share.present[:, column].any())


def _ask(channel: Channel, federation: Federation) -> dict[str, SiteInfo]:
    """The descriptions of the first ``ASKED`` sites. ``RunError`` where one does not fit, where more sites fail than
    ``sites.min`` leaves out of all sites (default: none), or all do.

    A site that fails stays in the run: the server knows what data it has, the rounds count its failures as they do for
    a site that was not asked, and a temporary fault changes neither the statistics nor who is sampled.
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
            f"{len(replies.received)} of the {len(asked)} sites that were asked gave a description; of all "
            f"{len(names)} at least {least} must be connected (sites.min), so that at most {spare} may fail here. "
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
            ("holds other samples: expected the number", found.samples, known.samples),
            ("holds other samples: expected the modalities", found.modalities, known.modalities),
        ):
            if reported != expected:
                raise RunError(f"site {name} {what} {expected}, found {reported}")
    return described


def _statistics(
    known: dict[str, Statistics], described: Mapping[str, SiteInfo], server_data: ServerData
) -> dict[str, Statistics]:
    """The statistics over all sites, in sorted order. Where a resumed run has them (``known``), only the sites that
    were ``described`` are summed, to check that they hold the values that they were assigned.

    The server sums what it assigned: to the last bit what sites on such a machine would report, without the messages.
    One site at a time: the sums of all would not fit the memory where sites are many and samples large.
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
                        f"site {name} has other values of {', '.join(strange)} than it was assigned: expected the same "
                        "data on every machine, found other sums over its rows; compare the contents of data.root"
                    )
            yield own

    found = combine(sums())
    return known or found
