"""Select the trackers of a config (section ``tracking``)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from pydantic import ValidationError

from fedrecon_core.config import RunConfig
from fedrecon_core.config.errors import explain
from fedrecon_core.config.sections import AUTO
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import discover
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, Tracker


def check_keys(config: RunConfig) -> None:
    """Raise ``ConfigError`` for a tracker or a tracker's key that does not exist."""
    _chosen(config)


def trackers_of(config: RunConfig) -> dict[str, Tracker]:
    """Create the trackers of ``config``, by name; one that is ``auto`` only if its package is installed.

    Raises:
        ConfigError: as in ``check_keys``, or if the package of a tracker that is not ``auto`` is not installed. (The
            machine that submits a deployment must not call this: the trackers run with the ServerApp.)
    """
    chosen = _chosen(config)
    for name, tracker in chosen.items():
        if not _installed(tracker) and config.tracking[name] != AUTO:
            advice = f"python -m pip install {tracker.pip}, or turn the tracker off: --set tracking.{name}=null"
            raise ConfigError(f"tracking.{name}: expected the package {tracker.package}, found none; {advice}")
    return {name: tracker for name, tracker in chosen.items() if _installed(tracker)}


def missing_of(config: RunConfig) -> list[str]:
    """Return a message for each tracker that is ``auto`` and not installed."""
    chosen = _chosen(config)
    return [
        f"tracking.{name} is off: the package {tracker.package} is not installed (python -m pip install {tracker.pip})"
        for name, tracker in chosen.items()
        if config.tracking[name] == AUTO and not _installed(tracker)
    ]


def untracked_unless_asked(config: RunConfig) -> RunConfig:
    """Return ``config`` for a trial of a sweep, with trackers that are ``auto`` switched off.

    A sweep has its own tables and curves, and nobody reads the event files of hundreds of small runs.
    """
    asked = {name: None if keys == AUTO else keys for name, keys in config.tracking.items()}
    return config.model_copy(update={"tracking": asked})


def _chosen(config: RunConfig) -> dict[str, Tracker]:
    """Create every tracker that is not off; the name of one that is off must exist, too."""
    discover(TRACKER_PACKAGES)
    try:
        classes = {name: TRACKERS.get(name) for name in config.tracking}
    except ConfigError as error:
        raise ConfigError(f"tracking: {error}") from None
    chosen = {}
    for name, keys in config.tracking.items():
        if keys is None:
            continue
        cls, raw = classes[name], keys if isinstance(keys, Mapping) else {}
        try:
            chosen[name] = cls(cls.Params.model_validate(dict(raw)))
        except ValidationError as error:
            raise ConfigError(f"tracking.{name}.{explain(error, raw, cls.Params)}") from None
    return chosen


def _installed(tracker: Tracker) -> bool:
    return tracker.package is None or find_spec(tracker.package) is not None
