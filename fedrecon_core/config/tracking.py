"""Which trackers a run tells of itself, as it is written in a config. What their keys are is known to those who have
trackers: the core passes them on unread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from fedrecon_core.config.faults import MisfitError, shown

AUTO = "auto"
"""On where its package is installed, and off in the cells of a sweep."""
DEFAULT: Mapping[str, Any] = {"tensorboard": AUTO}
_SWITCHES: Mapping[Any, Any] = {None: None, False: None, True: {}, AUTO: AUTO}


def _over_the_default(value: Any) -> dict[str, Any]:
    """Tracker -> its keys, ``auto``, or None where it is off. What is written stands over the default, so that naming
    one tracker turns off no other."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping tracker -> keys, found {shown(value)}")
    return {**DEFAULT, **{str(name): _keys(str(name), keys) for name, keys in value.items()}}


def _keys(name: str, keys: Any) -> Any:
    if isinstance(keys, Mapping):
        return dict(keys)
    if keys is None or (isinstance(keys, bool | str) and keys in _SWITCHES):
        return _SWITCHES[keys]
    expected = "expected a mapping of keys, true (its defaults), auto (where it is installed) or null (off)"
    raise MisfitError(name, f"{expected}, found {shown(keys)}")


Tracking = Annotated[dict[str, Any], BeforeValidator(_over_the_default)]
