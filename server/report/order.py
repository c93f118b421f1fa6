"""What a cell of a table is sorted by: the number that its text begins with, in one unit for the whole column."""

from __future__ import annotations

import re

UNITS = {
    "%": 0.01,
    **{"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12},
    **{"s": 1.0, "min": 60.0, "h": 3600.0},
}
"""Unit -> what one of it is, as ``server.runs.formatting`` writes percentages, sizes and durations."""
_NUMBER = re.compile(r"([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)(?: ?(%|[kMGT]?B|s|min|h))?(?: |$)")


def sort_key(text: str) -> str | None:
    """What ``text`` is sorted by if it begins with a number that a browser cannot read: ``41.2 MB`` is 41200000,
    ``2 min 05 s`` is 125, ``85.1 ± 0.4`` is 85.1. None where the text speaks for itself: words, plain numbers, a dash.
    """
    found = _NUMBER.match(text)
    if found is None or (found.end() == len(text) and found[1] == text and "," not in text):
        return None
    value = _value(found)
    while found[2] in ("h", "min") and (found := _NUMBER.match(text, found.end())):
        value += _value(found)
    return f"{value:.12g}"


def _value(found: re.Match[str]) -> float:
    return float(found[1].replace(",", "")) * UNITS.get(found[2] or "", 1.0)
