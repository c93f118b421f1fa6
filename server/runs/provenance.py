"""What rounds are made with beside config and data: code, device, versions. Of another making, numbers may differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from strategies.code_hash import code_hash

VERSIONS = ("fedrecon", "flwr", "ray", "torch", "numpy")
MAKING = ("code_sha256", "device", "versions")
"""The fields of a manifest that say it."""


@dataclass(frozen=True)
class Change:
    """``what`` (``code``, ``device`` or a package's name) was ``then`` and is ``now``; None where there is none."""

    what: str
    then: str
    now: str | None


def making_here(device: str | None) -> dict[str, Any]:
    """The fields as this process on ``device`` would write them."""
    return {"code_sha256": code_hash(), "device": device, "versions": dict(_versions())}


@cache
def _versions() -> Mapping[str, str]:
    """Read once: a sweep asks for each of its cells."""
    return {name: version(name) for name in VERSIONS}


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Each field of ``now`` that ``then``, which may be any manifest, says otherwise; what it does not say is none."""
    for what, key in (("code", "code_sha256"), ("device", "device")):
        if then.get(key) not in (None, now[key]):
            yield Change(what, str(then[key]), now[key])
    found = then.get("versions")
    for name, text in now["versions"].items():
        before = found.get(name) if isinstance(found, Mapping) else None
        if before not in (None, text):
            yield Change(name, str(before), text)
