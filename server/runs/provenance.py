"""Provenance of rounds: the code, device and package versions that computed them. With others, numbers may differ."""

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
    """``what`` (``code``, ``device`` or the name of a package) was ``then`` and is ``now``; None if there is none."""

    what: str
    then: str
    now: str | None


def provenance_here(device: str | None, plugins: Sequence[str] = ()) -> dict[str, Any]:
    """The provenance of rounds that this process would compute on ``device`` with the config's ``plugins``."""
    versions = {**_versions(), **plugin_versions(plugins)}
    return {"code_sha256": code_hash(plugins), "device": device, "versions": versions}


@cache
def _versions() -> Mapping[str, str]:
    """Read once: a sweep asks for each of its cells."""
    return {name: version(name) for name in PACKAGES}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """The fields in which the provenance ``now`` differs from ``then``, which may be any manifest. A field that
    ``then`` lacks is no change."""
    for what, key in (("code", "code_sha256"), ("device", "device")):
        if then.get(key) not in (None, now[key]):
            yield Change(what, str(then[key]), now[key])
    found = then.get("versions")
    for name, text in now["versions"].items():
        before = found.get(name) if isinstance(found, Mapping) else None
        if before not in (None, text):
            yield Change(name, str(before), text)


def describe_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A message for each change of provenance on a resume, after which numbers may not repeat."""
    messages = {
        "code": "this run began with other code",
        "device": "the rounds so far were computed on {0.then}, and this machine continues on {0.now}",
    }
    for change in changes(then, now):
        yield messages.get(change.what, "the rounds so far were computed with {0.what} {0.then} (now {0.now})").format(
            change
        )


def earlier_provenance(old: Mapping[str, Any], now: Mapping[str, Any], rounds: int) -> list[dict[str, Any]]:
    """The provenance of the rounds before those of ``now``, oldest first: for each part its provenance and its last
    round. ``old`` is the manifest so far, of a run with ``rounds`` rounds. Empty if nothing changed."""
    parts = list(old.get("earlier", []))
    if any(changes(old, now)):
        parts.append({"rounds": rounds, **{key: old[key] for key in FIELDS if key in old}})
    return parts
