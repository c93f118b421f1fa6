"""Format numbers for people; an unknown number is a dash."""

from __future__ import annotations

import math

DASH = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share of one in percent: ``0.6214`` is ``62.1%``."""
    return DASH if share is None else f"{100 * share:.{digits}f}%"


def bounded(share: float | None, bound: float | None) -> str:
    """Format a share with the bound of its error, if there is one, rounded up: ``62.1% ± 0.04%``."""
    if share is None or not bound:
        return percent(share)
    return f"{percent(share)} ± {math.ceil(round(10_000 * bound, 6)) / 100:.2f}%"


def decimal(value: float | None) -> str:
    """Format a number with three significant digits, or as an integer from 1,000 on.

    ``0.48231`` is ``0.482``, ``1234.5`` is ``1,234``.
    """
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"  # with `g` that would be 1e+03


def count(value: float | None) -> str:
    """Format a whole number with thousands separators."""
    return DASH if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Format bytes in decimal units: ``41230000`` is ``41.2 MB``."""
    if value is None:
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def seconds(value: float | None) -> str:
    """Format a duration: ``0.42 s``, ``31.5 s``, ``2 min 05 s``, ``3 h 12 min``."""
    if value is None:
        return DASH
    if value < 59.95:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plural(value: int, one: str, many: str = "") -> str:
    """Format a number of things: ``1 site``, ``8 sites``."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def listing(words: list[str], limit: int = 6) -> str:
    """Join words: ``a, b and c``, or ``a, b; c, d and e`` if words have commas; more than ``limit`` are cut."""
    if len(words) > limit:
        words = [*words[: limit - 1], f"{len(words) - limit + 1} more"]
    comma = "; " if any(", " in word for word in words) else ", "
    return " and ".join([comma.join(words[:-1]), words[-1]] if len(words) > 1 else words)
