"""``manifest.json``: the data, the code and the sites of a run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedrecon_core.data.allocation import ServerData
from fedrecon_core.errors import RunError
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import State
from fedrecon_core.types import SPLITS
from server.runs.directory import RunDirectory
from server.runs.provenance import describe_changes, earlier_provenance, provenance_here
from strategies.federation import Federation


def write_manifest(directory: RunDirectory, now: dict[str, Any], last: int, note: Callable[[str], None]) -> None:
    """Write the manifest ``now`` of a run that begins, or that resumes after the round ``last``.

    Drops the lines of rounds that will be repeated. Changes other than of the data are passed to ``note``.

    Raises:
        RunError: a resumed run would continue on other data.
    """
    old = directory.read_json("manifest.json") if last else {}
    for key, thing in (("spec_sha256", "data set"), ("partition_sha256", "partition"), ("mask_sha256", "masks")):
        if old.get(key, now[key]) != now[key]:
            todo = "restore the data that the run began with, or remove its directory to start again"
            raise RunError(f"cannot resume: the {thing} changed, expected {key} {old[key]}, found {now[key]}; {todo}")
    for text in (*describe_changes(old, now), *data_changes(old.get("sites", []), now["sites"])):
        note(f"{text}; the rounds from here on may not repeat this run bit by bit")
    for name in ("metrics.jsonl", "sites.jsonl"):
        directory.drop_rounds_after(name, last)
    before = earlier_provenance(old, now, last)
    sites = merge_sites(old.get("sites", []), now["sites"])
    directory.write_json("manifest.json", {**now, "sites": sites, **({"earlier": before} if before else {})})


def manifest(
    federation: Federation, server_data: ServerData | None, groups: Mapping[str, State], full_bytes: int
) -> dict[str, Any]:
    """Return all fields of the manifest.

    Args:
        federation: the federation of the run.
        server_data: the server's data, if it has any.
        groups: the parameter groups with their tensors.
        full_bytes: tensor bytes of a train message with every group.

    The hashes of partition and masks are null if the sites bring their own data.
    """
    config, spec = federation.config, federation.spec
    allocation = server_data.allocation if server_data and federation.shares else None
    if allocation:
        missing = allocation.effective_rates
    else:  # by split and modality, the share of the samples that lack it, over all sites with data of their own
        owned = [info.own for info in federation.sites.values() if info.own]
        missing = {}
        for split in SPLITS:
            held = [own.holdings[split] for own in owned]
            total = max(sum(holding.samples for holding in held), 1)
            present = {name: sum(holding.present.get(name, 0) for holding in held) for name in spec.names}
            missing[split] = {name: 1 - count / total for name, count in present.items()}
    provenance = provenance_here(choose_device(config.device).type, config.plugins)
    return {
        **provenance,
        "versions": {"python": platform.python_version(), **provenance["versions"]},
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
        "protocol_faults": list(server_data.dataset.faults) if server_data else [],
        "sites": describe_sites(federation, server_data),
        "left_out": allocation.left_out if allocation else {},
        "effective_missing": missing,
    }


def parameter_counts(groups: Mapping[str, State]) -> dict[str, int]:
    """Return the number of parameters of each group."""
    return {group: sum(tensor.numel() for tensor in state.values()) for group, state in sorted(groups.items())}


def describe_sites(federation: Federation, server_data: ServerData | None) -> list[dict[str, Any]]:
    """Describe the training data of each site that ever took part.

    An entry has the number of samples, the share of them that has each modality and, in a simulation, the number of
    samples per class. Deployed sites do not report samples per class.
    """
    described: list[dict[str, Any]] = []
    if server_data is None or not federation.shares:
        for _, info in sorted(federation.sites.items()):
            if info.own:
                train = info.own.holdings["train"]
                shares = {name: count / max(train.samples, 1) for name, count in train.present.items()}
                entry = {"name": info.name, "samples": train.samples, "modalities": shares}
                described.append({**entry, "data_sha256": info.own.data_hash})
        return described
    dataset = server_data.dataset
    classes, names = np.arange(len(dataset.spec.classes)), dataset.spec.names
    for name in sorted(federation.sites):
        share = server_data.allocation.train[name]
        labels = dataset.labels[share.samples]
        members = labels if dataset.spec.target == "multilabel" else labels[:, None] == classes
        present = share.present.mean(axis=0).tolist() if len(labels) else [0.0] * len(names)
        modalities = dict(zip(names, present, strict=True))
        counts = members.sum(axis=0).tolist()
        described.append({"name": name, "samples": len(labels), "modalities": modalities, "classes": counts})
    return described


def merge_sites(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge two lists of sites by name; if a site is in both, its entry in ``now`` counts."""
    return [site for _, site in sorted({site["name"]: site for site in [*before, *now]}.items())]


def data_changes(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """Return a message for each site whose own data changed."""
    known = {site["name"]: site.get("data_sha256") for site in before}
    return [
        f"the data of site {site['name']} changed since this run began"
        for site in now
        if known.get(site["name"], site.get("data_sha256")) != site.get("data_sha256")
    ]
