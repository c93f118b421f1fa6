"""Round 0: find the sites, learn what each holds, hand simulated ones their samples, see that all run the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Allocation, Share, allocate
from fedrecon_core.data.dataset import Dataset, load_dataset
from fedrecon_core.data.site_data import open_site
from fedrecon_core.data.statistics import Statistics, Sums, combine, same_values, site_sums
from fedrecon_core.errors import ConfigError, RunError
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.state import TransferPlan
from fedrecon_core.types import DatasetSpec
from server.federation.messaging import Deadline, exchange
from server.federation.registry import SiteRegistry
from server.runs.setup import checked_recovery
from strategies import messages
from strategies.code_hash import code_hash
from strategies.federation import Federation
from strategies.messages import SiteInfo
from strategies.wire import WireMeter

POLL_SECONDS = 0.2
ASKED = 16
"""How many simulated sites are asked who they are. What each holds is known to the server, which dealt it out; a few
show whether the processes that act for them run this code on these values. Every reply of a round shows the hashes of
code and data specification again, and no values."""


@dataclass(frozen=True)
class Central:
    """The server's own copy of the data, and who holds what of it."""

    dataset: Dataset
    allocation: Allocation


@dataclass(frozen=True)
class Started:
    """What the handshake leaves: the federation, its recovery, and the server's own data where it has any.

    ``refresh`` brings the federation up to date before a round; ``RunError`` if too few sites are there.
    ``mark_stale`` names
    sites that failed or changed: they are asked again who they are before they take part again.
    """

    federation: Federation
    recovery: Recovery
    central: Central | None
    refresh: Callable[[int], None]
    mark_stale: Callable[[Iterable[str]], None]


@dataclass(frozen=True)
class Call:
    """What a handshake needs to speak with the nodes. ``run`` is where, or under which name, sites keep their state;
    ``statistics`` are those that a resumed run began with, ``spec`` the hash of its data specification."""

    grid: Grid
    config: RunConfig
    run: str
    meter: WireMeter
    tell: Callable[[str], None]
    statistics: Mapping[str, Statistics]
    spec: str | None = None


def register_sites(call: Call) -> Started:
    """Find the sites, share out the data where the server has them, and learn what each site holds.

    Raises ``RunError`` when too few sites connect within ``sites.wait`` seconds, or when a site does not fit the run.
    """
    if call.config.engine.simulated:
        return _simulated(call, _central(call.config))
    return _deployed(call, _central(call.config) if call.config.has_central_data else None)


def _central(config: RunConfig) -> Central:
    dataset = load_dataset(config)
    return Central(dataset, allocate(dataset, config))


# --- sites that bring their own data --------------------------------------------------------------------------------


def _deployed(call: Call, central: Central | None) -> Started:
    reads_absent = RECOVERIES.get(call.config.recovery.name).reads_absent
    if reads_absent:
        name = call.config.recovery.name
        raise ConfigError(f"recovery.name: {name} reads absent data, which only a simulation has; choose another one")
    federation = Federation(call.config, DatasetSpec(name="", modalities=(), classes=()), call.run, {}, {}, {})
    known = call.spec if central is None else central.dataset.spec.digest()
    registry = SiteRegistry(call.grid, call.config, federation.config_json, call.run, call.meter, call.tell, known)
    federation.nodes = registry.refresh(0)
    infos = registry.infos()
    federation.spec = _spec_of(infos)
    recovery = checked_recovery(call.config, federation.spec)
    federation.statistics = dict(call.statistics)
    _take_in(federation, recovery, infos)
    if central is None:
        _scorable(federation)

    def refresh(round_: int) -> None:
        federation.nodes = registry.refresh(round_)
        _take_in(federation, recovery, registry.infos())

    return Started(federation, recovery, central, refresh, registry.mark_stale)


def _scorable(federation: Federation) -> None:
    """Better now than after weeks of training."""
    for split in ("validation", "test"):
        if not federation.holders(split):
            raise RunError(
                f"no connected site holds {split} samples, so that no model could be chosen and tested: put some into "
                "the split column of a site's samples.parquet, or score at the server (evaluate.where: server)"
            )


def _spec_of(infos: Mapping[str, SiteInfo]) -> DatasetSpec:
    own = infos[min(infos)].own
    assert own is not None  # the registry takes in no other
    return DatasetSpec.model_validate_json(own.spec)


def _take_in(federation: Federation, recovery: Recovery, infos: Mapping[str, SiteInfo]) -> None:
    """Plans of the sites that are new or came back changed. The statistics stay those that the run began with; a late
    site only adds those of a modality that nobody had before."""
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


def _simulated(call: Call, central: Central) -> Started:
    config, dataset, allocation = call.config, central.dataset, central.allocation
    recovery = recovery_for(config, dataset.spec)
    federation = Federation(config, dataset.spec, call.run, {}, {}, {})
    federation.nodes = _hands(_wait_for_nodes(call.grid, config), sorted(allocation.train))
    federation.shares = dict(allocation.train)
    federation.sites = _dealt(central)
    said = _ask(call, federation)
    for name, info in said.items():
        _agree(info, federation.sites[name])
    federation.statistics = _statistics(call, said, central)
    federation.plans = _plans(recovery, {name: site.modalities for name, site in federation.sites.items()})
    federation.held_out = {"validation": allocation.validation, "test": allocation.test}
    federation.held_out_plans = {
        split: _plans(recovery, {name: _shown(share, dataset) for name, share in shares.items()})
        for split, shares in federation.held_out.items()
    }
    return Started(federation, recovery, central, _stay, _stay)


def _stay(_: object) -> None:
    """Simulated sites are there from the first round to the last, and hold what they were dealt."""


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


def _dealt(central: Central) -> dict[str, SiteInfo]:
    """What each site should say of itself, but for its sums: for them its rows must be read."""
    code, spec, dataset = code_hash(), central.dataset.spec.digest(), central.dataset
    return {
        name: SiteInfo(name, code, spec, _shown(share, dataset), len(share.samples), sums={})
        for name, share in sorted(central.allocation.train.items())
    }


def _statistics(call: Call, said: Mapping[str, SiteInfo], central: Central) -> dict[str, Statistics]:
    """Those over all sites, in sorted order; where a resumed run knows them, only the sites that ``said`` who they are
    are summed, to see that they hold the values that were dealt to them.

    The server sums what it dealt out: to the last bit what sites on such a machine would say, at a fraction of what
    messages cost. A site at a time: the sums of all would not fit the memory where sites are many and samples large.
    """

    def sums() -> Iterator[Mapping[str, Sums]]:
        for name in sorted(said if call.statistics else central.allocation.train):
            share = central.allocation.train[name]
            known = site_sums(open_site(central.dataset, share.samples, share.present, device=torch.device("cpu")))
            if name in said:
                _hold_the_same(said[name], known)
            yield known

    found = combine(sums())
    return dict(call.statistics) or found


def _hold_the_same(said: SiteInfo, known: Mapping[str, Sums]) -> None:
    """``RunError`` where the sums that a site ``said`` are not those of the values that were dealt to it."""
    strange = [name for name in known if name not in said.sums or not same_values(said.sums[name], known[name])]
    if strange:
        found = f"site {said.name} has other values of {', '.join(strange)} than were dealt to it"
        told = "expected the same data on every machine, found other sums over its rows; compare what data.root holds"
        raise RunError(f"{found}: {told}")


def _plans(recovery: Recovery, held: Mapping[str, tuple[str, ...]]) -> dict[str, TransferPlan]:
    """The plan of each site for the modalities that it holds; sites with the same ones share it."""
    known = {modalities: recovery.plan(modalities) for modalities in set(held.values())}
    return {name: known[modalities] for name, modalities in held.items()}


def _ask(call: Call, federation: Federation) -> dict[str, SiteInfo]:
    """What the first ``ASKED`` sites say of themselves. ``RunError`` where more of them fail than ``sites.min`` leaves
    out of all sites (default: none), or all do.

    One that fails stays in the run: what it holds is known, the rounds count its failures as they do those of a site
    that was not asked, and a fault that passes changes neither the statistics nor who is sampled.
    """
    names = sorted(federation.nodes)
    asked = [
        Message(
            messages.write_instruction(federation.instruction(name, 0)),
            dst_node_id=federation.nodes[name],
            message_type=messages.DESCRIBE_TYPE,
        )
        for name in names[:ASKED]
    ]
    replies = exchange(call.grid, asked, deadline_of(call.config), call.meter)
    least = call.config.sites.min or len(names)
    spare = min(max(len(names) - least, 0), len(asked) - 1)
    if len(replies.failures) > spare:
        answered = f"{len(replies.messages)} of the {len(asked)} sites that were asked said who they are"
        told = f"of all {len(names)} at least {least} must be there (sites.min), so that at most {spare} may fail here"
        raise RunError(f"{answered}; {told}. {replies.reasons()}")
    if replies.failures:
        call.tell(f"round 0: {replies.answered()}; {replies.reasons()}")
    return {name: messages.read_site(reply.content) for name, reply in sorted(replies.messages.items())}


def deadline_of(config: RunConfig) -> Deadline:
    """How long the server waits for sites: in a simulation they take turns."""
    return Deadline(config.sites.timeout, lanes=config.engine.workers if config.engine.simulated else None)


def _agree(said: SiteInfo, known: SiteInfo) -> None:
    """Every site must run this code on this data specification, and hold what it was dealt."""
    for what, found, expected in (
        ("runs other code: expected code hash", said.code_hash, known.code_hash),
        ("has another data set: expected spec hash", said.spec_hash, known.spec_hash),
        ("holds other samples: expected the number", said.samples, known.samples),
        ("holds other samples: expected the modalities", said.modalities, known.modalities),
    ):
        if found != expected:
            raise RunError(f"site {known.name} {what} {expected}, found {found}")
