"""Geometry of the charts. The templates (``charts.html.md``) draw it as SVG, colored by CSS classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from server.runs.summary import Points

WIDTH, HEIGHT = 440, 250  # user units: about the pixels of a phone's screen, so that text of 12 units is legible there
TOP, RIGHT, BOTTOM = 14, 14, 38
MANY = 60  # from this number of points or cells on, they are drawn smaller or joined
COLORS = 8  # number of distinct line styles; further lines reuse them
Label = Callable[[float], str]
Column = tuple[str, Points, Callable[[float | None], str]]
"""Name, points and format of the values of a column."""


@dataclass(frozen=True)
class Series:
    """The values of one line, by position on the horizontal axis.

    ``spreads`` maps a position to the half-length of an error bar, ``notes`` to a text that is added to the tooltip.
    """

    name: str
    points: Points
    spreads: Mapping[float, float] = field(default_factory=dict)
    notes: Mapping[float, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """The horizontal axis: its name, and labels at some positions (default: numbers at round positions).

    ``final``: the last value of a line is its result, so the legend shows it. True for rounds of training; false for
    missing rates, where the last value is one among others.
    """

    name: str
    labels: Mapping[float, str] = field(default_factory=dict)
    final: bool = False


ROUNDS = Axis("round", final=True)


@dataclass(frozen=True)
class Mark:
    """A vertical line at position ``at`` with a label."""

    at: float
    text: str


@dataclass(frozen=True)
class Tick:
    """A label of an axis and its coordinate on the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A point of a line: its coordinates, its tooltip, and the vertical ends of its error bar, if it has one."""

    x: float
    y: float
    tooltip: str
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A line of a chart; ``color``: 1 to ``COLORS``; ``last``: the value that the legend shows, or nothing."""

    name: str
    color: int
    radius: float
    dots: Sequence[Dot]
    last: str = ""

    @property
    def path(self) -> str:
        """The ``points`` of an SVG polyline."""
        return " ".join(f"{dot.x},{dot.y}" for dot in self.dots)


@dataclass(frozen=True)
class Chart:
    """A line chart in user units: the drawing is ``WIDTH`` x ``HEIGHT``, the plot starts at ``left``."""

    title: str
    axis: str
    left: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    mark: Tick | None = None
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def line_chart(
    title: str, series: Sequence[Series], label: Label, mark: Mark | None = None, axis: Axis = ROUNDS
) -> Chart | None:
    """Lay out lines over the rounds, or over another ``axis``; None if no series has a point.

    ``label`` formats a value of the vertical axis. A series without points is left out, but keeps its color: other
    charts of the same series show each in the same color.
    """
    drawn = [(place, one) for place, one in enumerate(series) if one.points]
    if not drawn:
        return None
    values = [v + sign * one.spreads.get(at, 0.0) for _, one in drawn for at, v in one.points for sign in (-1, 1)]
    positions = [*axis.labels, *(at for _, one in drawn for at, _ in one.points)]
    first, last = min(positions), max(positions)
    ticks = nice_ticks(values)
    left = 16 + 7.0 * max(len(label(tick)) for tick in ticks)

    def x(at: float) -> float:
        share = (at - first) / (last - first) if last > first else 0.5
        return round(left + share * (WIDTH - RIGHT - left), 2)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - BOTTOM - TOP), 2)

    def dots(one: Series) -> Iterator[Dot]:
        for at, value in one.points:
            tooltip = f"{one.name}, {axis.name} {axis.labels.get(at, f'{at:g}')}: {label(value)}{one.notes.get(at, '')}"
            spread = one.spreads.get(at)
            yield Dot(x(at), y(value), tooltip, None if spread is None else (y(value - spread), y(value + spread)))

    return Chart(
        title=title,
        axis=axis.name,
        left=left,
        x_ticks=[Tick(x(at), text) for at, text in (axis.labels or round_labels(first, last)).items()],
        y_ticks=[Tick(y(tick), label(tick).replace(".0%", "%")) for tick in ticks],  # ticks are round numbers
        lines=[
            Line(
                one.name,
                place % COLORS + 1,
                2.8 if len(one.points) < MANY else 1.2,
                list(dots(one)),
                label(one.points[-1][1]) if axis.final else "",
            )
            for place, one in drawn
        ],
        mark=Tick(x(mark.at), mark.text) if mark and first <= mark.at <= last else None,
    )


def nice_ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Return evenly spaced round numbers that enclose all values: about as many as asked for, at least two."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if span / about <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, max(last, first + 1) + 1)]


def round_ticks(first: float, last: float, about: int = 6) -> list[int]:
    """Return the rounds to label: the first, the last, and round numbers not too close to either."""
    step = max(1, round(nice_ticks([0, max(1.0, last - first)], about)[1]))
    inner = [
        t for t in range(math.ceil(first / step) * step, int(last) + 1, step) if min(t - first, last - t) * 2 > step
    ]
    return list(dict.fromkeys([int(first), *inner, int(last)]))


def round_labels(first: float, last: float) -> dict[float, str]:
    """Return the labels of an axis of rounds by position."""
    return {float(tick): str(tick) for tick in round_ticks(first, last)}


@dataclass(frozen=True)
class RoundsTable:
    """The numbers behind curves: per round one value per column, or None, each with its text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[float, Sequence[tuple[str, float | None]]]]


def rounds_table(caption: str, columns: Sequence[Column]) -> RoundsTable:
    """Tabulate curves over the rounds."""
    values = [dict(points) for _, points, _ in columns]
    formats = [label for _, _, label in columns]
    rows = [
        (turn, [(label(one.get(turn)), one.get(turn)) for one, label in zip(values, formats, strict=True)])
        for turn in sorted(set().union(*values))
    ]
    return RoundsTable(caption, [name for name, _, _ in columns], rows)


@dataclass(frozen=True)
class StripCell:
    """Neighboring rounds of a strip in the same state: position and width in rounds, CSS class, tooltip."""

    x: float
    width: float
    state: str
    tooltip: str


def strip(name: str, states: Sequence[tuple[int, str, str]]) -> list[StripCell]:
    """Lay out one cell per round from ``(round, CSS class, tooltip)``; in a long strip, equal neighbors are joined."""
    cells, at, gap = [], 0, 0.12 if len(states) < MANY else 0.0
    for _, group in groupby(enumerate(states), lambda item: item[0] if gap else item[1][1:]):
        joined = [state for _, state in group]
        (first, state, text), (last, *_) = joined[0], joined[-1]
        rounds = f"round {first}" if first == last else f"rounds {first} to {last}"
        cells.append(StripCell(at + gap / 2, len(joined) - gap, state, f"{name}, {rounds}: {text}"))
        at += len(joined)
    return cells


SHADES = ((0.0, "none"), (0.59, "pale"), (0.845, "middle"), (1.0, "deep"))
"""Upper bounds of the shares of a heat map that share a text color. The second bound is where black and white are
equally legible in the dark scheme, the third where they are in the light one, so that the contrast is at least 4.5
everywhere."""


def shade(share: float) -> str:
    """Return the CSS class of a cell of a heat map by its share, 0 to 1; 0 is hatched, to differ from a small share."""
    return next(name for bound, name in SHADES if share <= bound)
