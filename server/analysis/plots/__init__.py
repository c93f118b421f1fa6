"""Figures of sweeps, one file per kind. They are drawn without pyplot and its global state."""

from __future__ import annotations

from collections.abc import Callable

from fedrecon_core.errors import UsageError, did_you_mean
from server.analysis.plots.bars import bars
from server.analysis.plots.differences import differences
from server.analysis.plots.lines import fits_lines, lines
from server.analysis.plots.sites import sites
from server.analysis.plots.style import Drawing
from server.analysis.results import SweepResults

KINDS: dict[str, Callable[[SweepResults], list[Drawing]]] = {
    "lines": lines,
    "bars": bars,
    "differences": differences,
    "sites": sites,
}


def drawings(results: SweepResults, kind: str | None = None) -> list[Drawing]:
    """The figures of a kind; by default lines where the columns are numbers, or else bars.

    Raises:
        UsageError: the kind is not known, or does not fit the sweep.
    """
    name = kind or ("lines" if fits_lines(results.layout) else "bars")
    if name not in KINDS:
        text = f"--kind: unknown kind '{name}'; known: {', '.join(KINDS)}. {did_you_mean(name, KINDS)}"
        raise UsageError(text.rstrip())
    return KINDS[name](results)
