"""Small SVG charts that take the page's colours through CSS classes, with a title on each mark as hover text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from server.report.markup import Markup, joined, tag
from server.runs.summary import Points

WIDTH, HEIGHT = 440, 250  # user units: about the pixels of a phone's screen, so that 12 units of text can be read there
TOP, RIGHT, BOTTOM = 14, 14, 38
MANY = 60  # from so many points or cells on, they run together
LOOKS = 8  # lines that can be told apart; from then on they begin anew


@dataclass(frozen=True)
class Series:
    """One line of a chart. ``spreads``: by the place of a point, how far its value may lie to each side, which is drawn
    as a bar; ``notes``: what its hover text says besides."""

    name: str
    points: Points
    spreads: Mapping[float, float] = field(default_factory=dict)
    notes: Mapping[float, str] = field(default_factory=dict)

    @property
    def reach(self) -> list[float]:
        """The values that have to be on the drawing."""
        return [value + sign * self.spreads.get(at, 0.0) for at, value in self.points for sign in (-1, 1)]


@dataclass(frozen=True)
class Across:
    """The horizontal axis: its name, and the words that stand at some of its places; without any they are numbers.
    ``ends``: the last value of a line is what it came to, and the legend tells it. Over the rounds it is; over missing
    rates it is that of one rate among others."""

    name: str
    words: Mapping[float, str] = field(default_factory=dict)
    ends: bool = False

    def ticks(self, first: float, last: float) -> Mapping[float, str]:
        """What is written where."""
        return self.words or {float(turn): str(turn) for turn in round_ticks(first, last)}

    def place(self, at: float) -> str:
        """A place for people: ``round 3``."""
        return f"{self.name} {self.words.get(at, f'{at:g}')}"


ROUNDS = Across("round", ends=True)


@dataclass(frozen=True)
class Mark:
    """A vertical line at ``at`` with a word beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the drawing."""

    left: float
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        """The horizontal place of a round."""
        share = (value - self.x[0]) / (self.x[1] - self.x[0]) if self.x[1] > self.x[0] else 0.5
        return self.left + share * (WIDTH - RIGHT - self.left)

    def up(self, value: float) -> float:
        """The vertical place of a value; a drawing counts downwards."""
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - BOTTOM - TOP)


def line_chart(
    title: str,
    series: Sequence[Series],
    label: Callable[[float], str],
    mark: Mark | None = None,
    across: Across = ROUNDS,
) -> Markup:
    """Lines over the rounds, or what else is ``across``, as a figure with a heading and a legend, which tells what each
    line came to (``Across.ends``).

    ``label`` writes a value of the vertical axis. Series without points are left out; without any, nothing is drawn.
    """
    looks = list(_looks(series))
    drawn = [one for _, one in looks]
    if not drawn:
        return Markup("")
    ticks = nice_ticks([value for one in drawn for value in one.reach])
    places = [*across.words, *(at for one in drawn for at, _ in one.points)]
    left = 16 + 7.0 * max(len(label(tick)) for tick in ticks)
    frame = _Frame(left, (min(places), max(places)), (ticks[0], ticks[-1]))
    lines = (_line(one, look, _Scale(frame, label, across)) for look, one in looks)
    content = joined([_grid(frame, ticks, label, across), _marked(frame, mark), *lines])
    svg = tag("svg", tag("title", title), content, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img")
    return tag("figure", tag("figcaption", tag("h3", title), _legend(looks, label if across.ends else None)), svg)


def _looks(series: Sequence[Series]) -> Iterator[tuple[str, Series]]:
    """The lines that have points, each with the CSS class of its place: another chart of the same lines shows the same
    one in the same colour, whichever it lacks."""
    for place, one in enumerate(series):
        if one.points:
            yield f"line c{place % LOOKS + 1}", one


def nice_ticks(values: Sequence[float], about: int = 5) -> list[float]:
    """Evenly spaced round numbers that enclose all values, about as many as asked for, at least two."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if span / about <= factor * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, max(last, first + 1) + 1)]


def round_ticks(first: float, last: float, about: int = 6) -> list[int]:
    """Rounds to write below the axis: the first, the last, and round numbers not too close to them."""
    step = max(1, round(nice_ticks([0, max(1.0, last - first)], about)[1]))
    inner = [
        t for t in range(math.ceil(first / step) * step, int(last) + 1, step) if min(t - first, last - t) * 2 > step
    ]
    return list(dict.fromkeys([int(first), *inner, int(last)]))


def _grid(frame: _Frame, ticks: list[float], label: Callable[[float], str], across: Across) -> Markup:
    bottom = HEIGHT - BOTTOM
    parts: list[Markup] = []
    for tick in ticks:
        y = frame.up(tick)
        text = label(tick).replace(".0%", "%")  # ticks are round numbers
        parts.append(tag("line", x1=frame.left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule"))
        parts.append(tag("text", text, x=frame.left - 8, y=y + 4, class_="tick end"))
    for at, word in across.ticks(*frame.x).items():
        parts.append(tag("text", word, x=frame.across(at), y=bottom + 17, class_="tick middle"))
    middle = (frame.left + WIDTH - RIGHT) / 2
    return joined([*parts, tag("text", across.name, x=middle, y=HEIGHT - 5, class_="tick middle")])


def _marked(frame: _Frame, mark: Mark | None) -> Markup | None:
    if mark is None or not frame.x[0] <= mark.at <= frame.x[1]:
        return None
    x = frame.across(mark.at)
    beyond = x > (frame.left + WIDTH) / 2  # the word stands on the side with room for it
    line = tag("line", x1=x, x2=x, y1=TOP - 6, y2=HEIGHT - BOTTOM, class_="mark")
    text = tag("text", mark.text, x=x - 5 if beyond else x + 5, y=HEIGHT - BOTTOM - 6, class_=_side(beyond))
    return joined([line, text])


def _side(beyond: bool) -> str:
    return "tick halo end" if beyond else "tick halo"


@dataclass(frozen=True)
class _Scale:
    """Where points lie on the drawing, and how values and places are written."""

    frame: _Frame
    label: Callable[[float], str]
    across: Across

    def hover(self, series: Series, at: float, value: float) -> str:
        """``mask, round 3: 57.8%`` and what the line notes of the point."""
        return f"{series.name}, {self.across.place(at)}: {self.label(value)}{series.notes.get(at, '')}"


def _line(series: Series, class_: str, scale: _Scale) -> Markup:
    frame = scale.frame
    spots = [(at, value, frame.across(at), frame.up(value)) for at, value in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for _, _, x, y in spots)
    radius = 2.8 if len(spots) < MANY else 1.2
    spreads = (_spread(frame, x, value, series.spreads[at]) for at, value, x, _ in spots if at in series.spreads)
    dots = (
        tag("circle", tag("title", scale.hover(series, at, value)), cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius)
        for at, value, x, y in spots
    )
    return tag("g", *spreads, tag("polyline", points=path), *dots, class_=class_)


def _spread(frame: _Frame, x: float, value: float, spread: float) -> Markup:
    return tag("line", x1=x, x2=x, y1=frame.up(value - spread), y2=frame.up(value + spread), class_="spread")


def _legend(looks: Sequence[tuple[str, Series]], label: Callable[[float], str] | None) -> Markup:
    def entry(look: str, one: Series) -> Markup:
        sample = tag("svg", tag("line", x1=0, x2=24, y1=5, y2=5), viewBox="0 0 24 10", class_=f"key {look}")
        last = (" ", tag("b", label(one.points[-1][1]))) if label else ()
        return tag("li", sample, one.name, *last)

    return tag("ul", *(entry(*item) for item in looks), class_="legend")


def bar(parts: Sequence[tuple[str, float]], whole: float) -> Markup:
    """A horizontal stacked bar of ``(hover text, value)`` in a track that stands for ``whole``; it fills its cell."""
    drawn, start = [tag("rect", x=0, y=0, width=100, height=10, class_="track")], 0.0
    for place, (title, value) in enumerate(parts, 1):
        width = 100 * value / whole if whole > 0 else 0.0
        drawn.append(tag("rect", tag("title", title), x=start, y=0, width=width, height=10, class_=f"fill c{place}"))
        start += width
    return tag("svg", *drawn, viewBox="0 0 100 10", preserveAspectRatio="none", class_="bar", aria_hidden="true")


def strip(name: str, states: Sequence[tuple[int, str, str]]) -> Markup:
    """One cell per round, coloured by state: ``(round, CSS class, hover text)``. In a long strip equals join."""
    drawn, at, gap = [], 0, 0.12 if len(states) < MANY else 0.0
    for _, group in groupby(enumerate(states), lambda item: item[0] if gap else item[1][1:]):
        cells = [state for _, state in group]
        rounds = f"round {cells[0][0]}" if len(cells) == 1 else f"rounds {cells[0][0]} to {cells[-1][0]}"
        hover = tag("title", f"{name}, {rounds}: {cells[0][2]}")
        drawn.append(tag("rect", hover, x=at + gap / 2, y=0, width=len(cells) - gap, height=10, class_=cells[0][1]))
        at += len(cells)
    box = f"0 0 {max(1, len(states))} 10"
    return tag("svg", *drawn, viewBox=box, preserveAspectRatio="none", class_="strip", aria_hidden="true")


SHADES = ((0.0, "none"), (0.59, "pale"), (0.845, "middle"), (1.0, "deep"))
"""Up to which value a cell has which ink. The second bound is where black and white can be read alike in the dark, the
third where they can in the light, so that the contrast is at least 4.5 everywhere."""


def heat(value: float | None, text: str, hover: str) -> Markup:
    """A table cell shaded by ``value`` between 0 and 1; hatched at 0, so that nothing is not mistaken for little."""
    if value is None:
        return tag("td", text, class_="heat", title=hover, data_sort="")
    value = min(1.0, max(0.0, value))
    shade = next(name for bound, name in SHADES if value <= bound)
    return tag("td", text, class_=f"heat {shade}", style=f"--share:{value:.3f}", title=hover, data_sort=value)
