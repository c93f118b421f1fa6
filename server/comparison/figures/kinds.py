"""The kinds of figures."""

from __future__ import annotations

from collections.abc import Callable

from fedrecon_core.errors import UsageError
from fedrecon_core.nearest import did_you_mean
from server.comparison.figures.bars import bars
from server.comparison.figures.differences import differences
from server.comparison.figures.drawing import Drawing
from server.comparison.figures.lines import fits_lines, lines
from server.comparison.figures.sites import sites
from server.comparison.material import Material

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
