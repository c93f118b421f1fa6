"""``manifest.json``: what was run, on what, by which code."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import RunError
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import State
from server.federation.registration import RunSites, ServerData
from server.runs.directory import RunDirectory
from server.runs.provenance import MAKING, changes, making_here
from server.training.checkpoints import Training
from strategies.federation import Federation
from strategies.messages import OwnData, SiteInfo


def write_manifest(
    directory: RunDirectory,
    config: RunConfig,
    sites: RunSites,
    training: Training,
    full_bytes: int,
    note: Callable[[str], None],
) -> None:
    """Write the manifest of a run that begins, or resumes from ``training``, and drop the lines of rounds that will be
    repeated. ``RunError`` where a resumed run would continue on other data; what else changed is noted."""
    now = manifest(config, sites, training.groups, full_bytes)
    old = directory.read_json("manifest.json") if training.round else {}
    for key, thing in (("spec_sha256", "data set"), ("partition_sha256", "partition"), ("mask_sha256", "masks")):
        if old.get(key, now[key]) != now[key]:
            todo = "restore the data that the run began with, or remove its directory to start anew"
            raise RunError(f"cannot resume: the {thing} changed, expected {key} {old[key]}, found {now[key]}; {todo}")
    for text in (*made_otherwise(old, now), *data_changes(old.get("sites", []), now["sites"])):
        note(f"{text}; the rounds from here on may not repeat this run bit by bit")
    for name in ("metrics.jsonl", "sites.jsonl"):
        directory.drop_rounds_after(name, training.round)
    before = earlier(old, now, training.round)
    now["sites"] = joined_sites(old.get("sites", []), now["sites"])
    directory.write_json("manifest.json", {**now, **({"earlier": before} if before else {})})


def manifest(config: RunConfig, sites: RunSites, groups: dict[str, State], full_bytes: int) -> dict[str, Any]:
    """All fields. Hashes of partition and masks exist where the server assigned the data. ``full_bytes``: the tensor
    bytes of a train message with every group."""
    spec, assigned = sites.federation.spec, sites.assigned
    allocation = assigned.allocation if assigned else None
    known_faults = sites.server_data.dataset.faults if sites.server_data else ()
    making = making_here(choose_device(config.device).type)
    return {
        **making,
        "versions": {"python": platform.python_version(), **making["versions"]},
        "seed": config.seed,
        "engine": config.engine.name,
        "spec_sha256": spec.digest(),
        "partition_sha256": allocation.partition_sha256 if allocation else None,
        "mask_sha256": allocation.mask_sha256 if allocation else None,
        "parameters": parameter_counts(groups),
        "full_bytes": full_bytes,
        "modalities": list(spec.names),
        "classes": list(spec.classes),
        "target": spec.target,
        "protocol_faults": list(known_faults),
        "sites": sites_of(sites),
        "left_out": allocation.left_out if allocation else {},
        "effective_missing": allocation.effective_rates if allocation else _missing(sites.federation),
    }


def parameter_counts(groups: Mapping[str, State]) -> dict[str, int]:
    """Group -> number of parameters."""
    return {group: sum(tensor.numel() for tensor in state.values()) for group, state in sorted(groups.items())}


def sites_of(sites: RunSites) -> list[dict[str, Any]]:
    """The training data of each site that ever took part. The number of samples per class of a deployed site is not
    asked for: it stays at the site."""
    infos = sorted(sites.federation.sites.items())
    if sites.assigned is not None:
        return [_simulated_site(name, sites.assigned) for name, _ in infos]
    return [_deployed_site(info, info.own) for _, info in infos if info.own]


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


def _simulated_site(name: str, data: ServerData) -> dict[str, Any]:
    share, dataset = data.allocation.train[name], data.dataset
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


def _missing(federation: Federation) -> dict[str, dict[str, float]]:
    """Split -> modality -> share of the samples, over all sites that bring their own, that lack it."""
    owned = [info.own for info in federation.sites.values() if info.own]
    rates = {}
    for split in ("train", "validation", "test"):
        held = [own.holdings[split] for own in owned]
        total = sum(holding.samples for holding in held)
        present = {name: sum(h.present.get(name, 0) for h in held) for name in federation.spec.names}
        rates[split] = {name: 1 - count / max(total, 1) for name, count in present.items()}
    return rates
