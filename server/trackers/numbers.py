"""Numbers of a run for trackers, ``<split>/<name>`` -> value, from the lines that the run writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

TOTALS = ("bytes_down", "bytes_up", "wire_bytes", "train_seconds", "train_processor_seconds", "wall_seconds")
_PLACES = ("round", "split")


def numbers_of_round(metrics: Iterable[Mapping[str, Any]], sites: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of one round from its lines of ``metrics.jsonl``, without the test split, and ``sites.jsonl``.

    Numbers of a split are prefixed with its name (``validation/uar``). Bytes and seconds of the sites are sums over
    sites and attempts (``sites/bytes_up``, ``sites/task_seconds``), next to the number of replies
    (``sites/answered``) and of failures (``sites/failed``).
    """
    found = {}
    for line in metrics:
        if line["split"] != "test":
            found.update(_numbers(str(line["split"]), line))
    lines = list(sites)
    if lines:
        answered = sum(line["status"] == "ok" for line in lines)
        summed = sorted({key for line in lines for key in line if key.startswith("bytes_") or key.endswith("_seconds")})
        sums = {key: sum(line.get(key, 0) for line in lines) for key in summed}
        found.update(_numbers("sites", {"answered": answered, "failed": len(lines) - answered, **sums}))
    return found


def numbers_of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """Return test scores (``test/uar``) and totals (``total/bytes_up``) of ``result.json``; none if the run failed."""
    totals = {name: result[name] for name in TOTALS if name in result}
    return {**_numbers("test", result.get("test", {})), **_numbers("total", totals)}


def flat(keys: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Flatten nested keys to ``a.b.c`` -> value; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in keys.items():
        name = f"{parent}.{key}" if parent else str(key)
        found.update(flat(value, name) if isinstance(value, Mapping) and value else {name: value})
    return found


def _numbers(prefix: str, line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a line, except its round, as ``<prefix>/<name>`` -> value."""
    return {
        f"{prefix}/{key}": value
        for key, value in line.items()
        if key not in _PLACES and isinstance(value, int | float) and not isinstance(value, bool)
    }
