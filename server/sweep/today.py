"""What a cell would be made with today, and what its rounds were made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from fedrecon_core.config import RunConfig
from fedrecon_core.device import choose_device
from fedrecon_core.errors import ConfigError
from strategies.code_hash import code_hash


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
    code must be known to be today's; of device and PyTorch, what the manifest does not say is no difference."""
    torch, versions = version("torch"), manifest.get("versions")
    then = versions.get("torch") if isinstance(versions, Mapping) else None
    if manifest.get("code_sha256") != code_hash():
        yield "of other code than today's"
    if device is not None and manifest.get("device") not in (None, device):
        yield f"on {manifest['device']} (today's device is {device})"
    if then not in (None, torch):
        yield f"of PyTorch {then} (today's is {torch})"
