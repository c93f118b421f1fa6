"""The kinds of figures."""

from __future__ import annotations

from collections.abc import Callable

from fedrecon_core.errors import UsageError, did_you_mean
from server.analysis.loaded_results import Material
from server.analysis.plots.bars import bars
from server.analysis.plots.differences import differences
from server.analysis.plots.drawing import Drawing
from server.analysis.plots.lines import fits_lines, lines
from server.analysis.plots.sites import sites

KINDS: dict[str, Callable[[Material], list[Drawing]]] = {
    "lines": lines,
    "bars": bars,
    "differences": differences,
    "sites": sites,
}


def drawings(material: Material, kind: str | None = None) -> list[Drawing]:
    """The figures of a kind; without one lines where the columns are numbers, else bars.

    Raises:
        UsageError: the kind is not known, or does not fit the sweep.
    """
    name = kind or ("lines" if fits_lines(material.layout) else "bars")
    if name not in KINDS:
        told = f"--kind: unknown kind '{name}'; known: {', '.join(KINDS)}. {did_you_mean(name, KINDS)}"
        raise UsageError(told.rstrip())
    return KINDS[name](material)
