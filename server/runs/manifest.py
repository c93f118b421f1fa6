"""``manifest.json``: what was run, on what, by which code."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fedrecon_core.config import RunConfig
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import State
from server.federation.registration import Central, Started
from server.runs.provenance import MAKING, changes, making_here
from server.training.checkpoints import manifest_of
from strategies.messages import OwnData, SiteInfo


def manifest(config: RunConfig, started: Started, groups: dict[str, State], full_bytes: int) -> dict[str, Any]:
    """All fields. Hashes of partition and masks exist where the server dealt out the data. ``full_bytes`` are those of
    every group in one message, with what the strategy sends beside them."""
    federation, allocation = started.federation, _dealt(started)
    known_faults = started.central.dataset.faults if started.central else ()
    making = making_here(choose_device(config.device).type)
    return {
        **making,
        "versions": {"python": platform.python_version(), **making["versions"]},
        "seed": config.seed,
        "engine": config.engine.name,
        "spec_sha256": federation.spec.digest(),
        "partition_sha256": allocation.allocation.partition_sha256 if allocation else None,
        "mask_sha256": allocation.allocation.mask_sha256 if allocation else None,
        "parameters": manifest_of(groups),
        "full_bytes": full_bytes,
        "modalities": list(federation.spec.names),
        "classes": list(federation.spec.classes),
        "target": federation.spec.target,
        "protocol_faults": list(known_faults),
        "sites": sites_of(started),
        "left_out": allocation.allocation.left_out if allocation else {},
        "effective_missing": allocation.allocation.effective_rates if allocation else _missing(started),
    }


def _dealt(started: Started) -> Central | None:
    """The server's data where it dealt them out to the sites."""
    return started.central if started.federation.shares else None


def sites_of(started: Started) -> list[dict[str, Any]]:
    """What each site that ever took part holds for training. How many samples of each class a deployed site has is not
    asked: it stays at the site."""
    central, sites = _dealt(started), started.federation.sites
    if central is not None:
        return [_simulated_site(name, central) for name in sorted(sites)]
    return [_deployed_site(info, info.own) for _, info in sorted(sites.items()) if info.own]


def joined_sites(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every site of either list, by name; of one that stands in both, what it holds now."""
    return [site for _, site in sorted({site["name"]: site for site in [*before, *now]}.items())]


def earlier(old: Mapping[str, Any], now: Mapping[str, Any], rounds: int) -> list[dict[str, Any]]:
    """What made the rounds before those of ``now``, oldest first: for each part what its manifest said of ``MAKING``,
    and its last round; ``old`` is the manifest so far, of a run that has ``rounds``. Empty where all is as it was."""
    parts = list(old.get("earlier", []))
    if any(changes(old, now)):
        parts.append({"rounds": rounds, **{key: old[key] for key in MAKING if key in old}})
    return parts


def made_otherwise(old: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """In words, what a run goes on without, so that its numbers may not repeat."""
    words = {
        "code": "this run began with other code",
        "device": "the rounds so far were made on {0.then}, and this machine goes on with {0.now}",
    }
    for change in changes(old, now):
        yield words.get(change.what, "the rounds so far were made with {0.what} {0.then} (now {0.now})").format(change)


def data_changes(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """In words, the sites whose own data are not what they were."""
    known = {site["name"]: site.get("data_sha256") for site in before}
    return [
        f"the data of site {site['name']} changed since this run began"
        for site in now
        if known.get(site["name"], site.get("data_sha256")) != site.get("data_sha256")
    ]


def _simulated_site(name: str, central: Central) -> dict[str, Any]:
    share, dataset = central.allocation.train[name], central.dataset
    labels, classes = dataset.labels[share.samples], np.arange(len(dataset.spec.classes))
    members = labels if dataset.spec.target == "multilabel" else labels[:, None] == classes
    return {
        "name": name,
        "samples": len(labels),
        "modalities": {
            m: float(share.present[:, column].mean()) if len(labels) else 0.0
            for column, m in enumerate(dataset.spec.names)
        },
        "classes": members.sum(axis=0).tolist(),
    }


def _deployed_site(info: SiteInfo, own: OwnData) -> dict[str, Any]:
    held = own.holdings["train"]
    return {
        "name": info.name,
        "samples": held.samples,
        "modalities": {name: count / max(held.samples, 1) for name, count in held.present.items()},
        "data_sha256": own.data_hash,
    }


def _missing(started: Started) -> dict[str, dict[str, float]]:
    """Split -> modality -> share of the samples, over all sites that bring their own, that lack it."""
    owned = [info.own for info in started.federation.sites.values() if info.own]
    rates = {}
    for split in ("train", "validation", "test"):
        held = [own.holdings[split] for own in owned]
        total = sum(holding.samples for holding in held)
        present = {name: sum(h.present.get(name, 0) for h in held) for name in started.federation.spec.names}
        rates[split] = {name: 1 - count / max(total, 1) for name, count in present.items()}
    return rates
