"""What a cell would be made with today, and what its rounds were made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import ConfigError
from fedrecon_core.runtime import choose_device
from server.runs.provenance import changes, making_here


def device_here(config: RunConfig) -> str | None:
    """The device of a run on this machine; None where it has none that the config asks for."""
    try:
        return choose_device(config.device).type
    except ConfigError:  # this machine has no GPU
        return None


def device_on_ray(config: RunConfig) -> str:
    """The device of a run that is a task of a Ray cluster, which shows it a GPU only if it asks for one (``OnRay``)."""
    return "cuda" if config.device == "cuda" else "cpu"


def made_otherwise(manifest: Mapping[str, Any], device: str | None) -> Iterator[str]:
    """In words, what rounds with this ``manifest`` were made with and those of today, on ``device``, would not be. The
    code must be known to be today's; without a device nothing can be run, and nothing is said of it."""
    if manifest.get("code_sha256") is None:
        yield _OTHERWISE["code"]
    for change in changes(manifest, making_here(device)):
        if change.what in _OTHERWISE and change.now is not None:
            yield _OTHERWISE[change.what].format(change)


_OTHERWISE = {
    "code": "of other code than today's",
    "device": "on {0.then} (today's device is {0.now})",
    "torch": "of PyTorch {0.then} (today's is {0.now})",
}
