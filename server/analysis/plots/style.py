"""How all figures look: for a column of a paper, to be told apart by the colour-blind and on grey paper, and with the
same bytes whenever they are made."""

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
"""What a picture is saved as, and the metadata that would tell when and by what."""
LONGEST = 24
SPEAKING = {"data", "recovery", "strategy"}
"""Axes whose levels are names that say what they are."""
PUBLISHED = "published"
"""What values are called that are not ours."""

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito 2008, "Color Universal Design", without the yellow, which is too pale for a line."""
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
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same letters everywhere
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
    "svg.fonttype": "none",  # names stay text, which can be searched and set in the paper's own font
    "svg.hashsalt": "fedrecon",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn. ``name``: of its files, without their endings. ``draw`` gives a
    ``matplotlib.figure.Figure``; it is called within ``applied``."""

    name: str
    draw: Callable[[], Any]

    @classmethod
    def of_table(cls, kind: str, table: ScoreTable, draw: Callable[[], Any]) -> Drawing:
        """The figure of a table; its name, ``lines-uar-alpha0.1``, has kind, metric and section."""
        return cls("-".join(filter(None, (kind, table.metric, slug_of(table.section)))), draw)


@dataclass(frozen=True)
class Look:
    """What tells one method from the others, by more than its colour."""

    colour: str
    marker: str
    dashes: str
    hatch: str


def look(place: int) -> Look:
    """The look of the method in a place of its order; the first 56 differ."""
    return Look(*(many[place % len(many)] for many in (_COLOURS, _MARKERS, _DASHES, _HATCHES)))


@contextmanager
def applied() -> Iterator[None]:
    """Draw and save in here: with these settings and no others, whatever a ``matplotlibrc`` says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font lacks is drawn as a box
        yield


def save(figure: Any, stem: Path) -> list[Path]:
    """Write ``stem`` with the ending of each format; ``OSError`` where that cannot be."""
    written = []
    for ending, metadata in FORMATS.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        replace_file(path, lambda place: figure.savefig(place, format=ending, metadata=metadata))  # noqa: B023
        written.append(path)
    return written


def height(metric: str) -> float:
    """What a share is multiplied with to be drawn: shares stand in per cent, a loss as it is."""
    return 100.0 if is_percentage(metric) else 1.0


def value_names(labels: Labels) -> str:
    """``mask, fedavg``: the levels alone, where their axes are told elsewhere."""
    return ", ".join(labels.values())


def short(name: str, longest: int = LONGEST) -> str:
    """Of a long name the middle is left out."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[1 - half :]}"


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many names stand beside each other in a legend of ``width`` inches."""
    widest = 0.5 + LETTER * max(map(len, names), default=0)
    return max(1, min(len(names), int(width / widest)))


@dataclass(frozen=True)
class Legend:
    """The names of methods, in a figure of ``width`` inches. ``axes``: of which each name has a level; they stand above
    the names, unless these are known without."""

    names: Sequence[str]
    axes: Sequence[str]
    width: float

    @property
    def title(self) -> str | None:
        """What stands above the names."""
        return None if set(self.axes) <= SPEAKING else ", ".join(self.axes)

    @property
    def height(self) -> float:
        """In inches; one that would have a single name is left out."""
        if len(self.names) < 2:
            return 0.0
        return LINE * (bool(self.title) - (-len(self.names) // legend_columns(self.names, self.width)))

    def put(self, figure: Any, handles: Sequence[Any]) -> None:
        """Above the axes of a ``matplotlib.figure.Figure``; a handle for each name."""
        if len(self.names) > 1:
            columns = legend_columns(self.names, self.width)
            figure.legend(handles, self.names, loc="outside upper center", ncols=columns, title=self.title)
