"""Provenance of rounds: the code, device and package versions that computed them. Numbers may depend on all three."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from fedrecon_core.plugins import versions as plugin_versions
from strategies.code_hash import code_hash

PACKAGES = ("fedrecon", "flwr", "ray", "torch", "numpy")
FIELDS = ("code_sha256", "device", "versions")
"""The fields of a manifest that hold the provenance."""


@dataclass(frozen=True)
class Change:
    """Change of ``what`` (``code``, ``device`` or the name of a package) from ``then`` to ``now`` (None: no device)."""

    what: str
    then: str
    now: str | None


def provenance_here(device: str | None, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Return the provenance of rounds computed by this process on ``device`` with the config's ``plugins``."""
    versions = {**_versions(), **plugin_versions(plugins)}
    return {"code_sha256": code_hash(plugins), "device": device, "versions": versions}


@cache
def _versions() -> Mapping[str, str]:
    """Return the versions of ``PACKAGES``; cached, because a sweep needs them for each of its trials."""
    return {name: version(name) for name in PACKAGES}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the differences between the provenance ``now`` and ``then``, which may be any manifest.

    A field that ``then`` lacks is not a change.
    """
    for what, key in (("code", "code_sha256"), ("device", "device")):
        if then.get(key) not in (None, now[key]):
            yield Change(what, str(then[key]), now[key])
    found = then.get("versions")
    for name, text in now["versions"].items():
        before = found.get(name) if isinstance(found, Mapping) else None
        if before not in (None, text):
            yield Change(name, str(before), text)


def describe_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for each change of provenance on a resume, since numbers may differ after it."""
    messages = {
        "code": "this run began with other code",
        "device": "the rounds so far were computed on {0.then}, and this machine continues on {0.now}",
    }
    for change in changes(then, now):
        yield messages.get(change.what, "the rounds so far were computed with {0.what} {0.then} (now {0.now})").format(
            change
        )


def earlier_provenance(old: Mapping[str, Any], now: Mapping[str, Any], rounds: int) -> list[dict[str, Any]]:
    """Return the provenance of the rounds before those of ``now``, oldest first; empty if nothing changed.

    Each entry has a provenance and the last round that it computed. ``old`` is the manifest so far, of a run with
    ``rounds`` rounds.
    """
    parts = list(old.get("earlier", []))
    if any(changes(old, now)):
        parts.append({"rounds": rounds, **{key: old[key] for key in FIELDS if key in old}})
    return parts
