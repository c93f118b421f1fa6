"""The style of all figures: sized for a paper, readable for the color-blind and in grayscale, and reproducible to the
byte."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrecon_core.files import replace_file
from fedrecon_core.metrics.base import is_percentage
from server.analysis.published import Labels
from server.analysis.tables import ScoreTable
from server.sweep.parameters import slug_of

COLUMN, PAGE = 3.4, 7.0
"""Widths in inches: one column of a paper, and both."""
LETTER = 0.062
"""Width of a letter in inches, on average."""
LINE = 0.16
"""Height of a line of a legend in inches."""
GREY = "#555555"
FORMATS: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""File formats, and the metadata that is left out because it depends on time and software."""
LONGEST = 24
SELF_EXPLANATORY = {"data", "recovery", "strategy"}
"""Parameters whose values need no title in a legend."""
PUBLISHED = "published"
"""The name of published values in a legend."""

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, "Color Universal Design", without yellow, which is too pale for lines."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oo", "++++")
_SETTINGS: Any = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "errorbar.capsize": 2,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.titlesize": 9,
    "figure.labelsize": 9,
    "font.family": "DejaVu Sans",  # part of matplotlib, so the same on every machine
    "font.size": 8,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.title_fontsize": 8,
    "legend.handlelength": 2.6,  # room for a dash and a dot
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "savefig.dpi": 300,
    "svg.fonttype": "none",  # text stays text, which can be searched and restyled
    "svg.hashsalt": "fedrecon",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure to draw. ``name`` is the name of its files without suffix; ``draw``, which must be called within
    ``applied``, returns a ``matplotlib.figure.Figure``."""

    name: str
    draw: Callable[[], Any]

    @classmethod
    def of_table(cls, kind: str, table: ScoreTable, draw: Callable[[], Any]) -> Drawing:
        """The figure of a table, named after kind, metric and section: ``lines-uar-alpha0.1``."""
        return cls("-".join(filter(None, (kind, table.metric, slug_of(table.section)))), draw)


@dataclass(frozen=True)
class Look:
    """How one method is drawn; methods differ in more than their color."""

    color: str
    marker: str
    dashes: str
    hatch: str


def look(place: int) -> Look:
    """The look of the method at position ``place``; the first 56 are different."""
    return Look(*(many[place % len(many)] for many in (_COLORS, _MARKERS, _DASHES, _HATCHES)))


@contextmanager
def applied() -> Iterator[None]:
    """Context in which figures are drawn and saved with these settings, whatever the user's ``matplotlibrc`` says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        warnings.simplefilter("ignore", UserWarning)  # missing glyphs are drawn as boxes
        yield


def save(figure: Any, stem: Path) -> list[Path]:
    """Write the figure in each format, ``stem`` with its suffix; ``OSError`` if a file cannot be written."""
    written = []
    for ending, metadata in FORMATS.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        replace_file(path, lambda place: figure.savefig(place, format=ending, metadata=metadata))  # noqa: B023
        written.append(path)
    return written


def unit_of(metric: str) -> float:
    """The factor of values in a figure: 100 for percentages, 1 for others such as the loss."""
    return 100.0 if is_percentage(metric) else 1.0


def value_names(labels: Labels) -> str:
    """The values without their parameters: ``mask, fedavg``."""
    return ", ".join(labels.values())


def short(name: str, longest: int = LONGEST) -> str:
    """Shorten a long name by leaving out its middle."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}"


def legend_columns(names: Sequence[str], width: float) -> int:
    """The number of columns in a legend of ``width`` inches."""
    widest = 0.5 + LETTER * max(map(len, names), default=0)
    return max(1, min(len(names), int(width / widest)))


@dataclass(frozen=True)
class Legend:
    """A legend of ``names`` in a figure of ``width`` inches. The names consist of values of
    ``parameters``, which are its title, unless the values are self-explanatory."""

    names: Sequence[str]
    parameters: Sequence[str]
    width: float

    @property
    def title(self) -> str | None:
        """The title; None if the names are self-explanatory."""
        return None if set(self.parameters) <= SELF_EXPLANATORY else ", ".join(self.parameters)

    @property
    def height(self) -> float:
        """The height in inches; a legend with a single name is left out."""
        if len(self.names) < 2:
            return 0.0
        return LINE * (bool(self.title) - (-len(self.names) // legend_columns(self.names, self.width)))

    def put(self, figure: Any, handles: Sequence[Any]) -> None:
        """Add the legend above the axes of a ``matplotlib.figure.Figure``, with one handle per name."""
        if len(self.names) > 1:
            columns = legend_columns(self.names, self.width)
            figure.legend(handles, self.names, loc="outside upper center", ncols=columns, title=self.title)
