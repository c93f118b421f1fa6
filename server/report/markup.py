"""HTML from Python values: whatever is not `Markup` is escaped, so that no name in a run can become code."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from server.report.order import sort_key

SHOWN_AT_ONCE = 300
"""Characters of a text such as an error that are shown without being asked for."""
VOID = frozenset({"br", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already; any other string is escaped where it is put in."""

    __slots__ = ()


NOTHING = Markup("")
Child = str | int | float | None
Attribute = str | int | float | bool | None


def escaped(child: Child) -> str:
    """``child`` as HTML; None is nothing."""
    if child is None:
        return ""
    return child if isinstance(child, Markup) else html.escape(str(child))


def joined(children: Iterable[Child]) -> Markup:
    """Children one after the other."""
    return Markup("".join(map(escaped, children)))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """One element. ``class_`` is written ``class``, ``aria_label`` ``aria-label``; None and False leave one out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    opening = f"<{name}{written}>"
    return Markup(opening if name in VOID else f"{opening}{joined(children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    if value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {key}="{html.escape(text)}"'


def table(
    caption: str,
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    class_: str | None = None,
    last: Sequence[Child] = (),
) -> Markup:
    """A semantic table in a box that scrolls, by keyboard too, where it is wider than the page.

    The first cell of a row is its header. A cell that is a whole ``<td>`` or ``<th>`` is taken as it is; one that is
    markup is sorted by what is read in it. ``caption`` is its accessible name and is shown to nobody else: a heading or
    sentence above says the same. Whoever sorts the rows leaves the ``last`` one, of sums, in its place.
    """
    header = tag("tr", *(_head(cell) for cell in head))
    foot = tag("tfoot", _row(last)) if last else None
    inner = (
        tag("caption", caption, class_="unseen"),
        tag("thead", header),
        tag("tbody", joined(map(_row, rows))),
        foot,
    )
    return tag(
        "div", tag("table", *inner, class_=class_), class_="scroll", tabindex=0, role="region", aria_label=caption
    )


def left(name: str) -> Markup:
    """The head of a column of words or bars, which starts at the left."""
    return tag("th", name, scope="col", class_="text")


def _head(cell: Child) -> Markup:
    return cell if isinstance(cell, Markup) and cell.startswith("<th") else tag("th", cell, scope="col")


def _row(cells: Sequence[Child]) -> Markup:
    return tag("tr", tag("th", cells[0], scope="row", data_sort=_sorted_by(cells[0])), *map(_cell, cells[1:]))


def _cell(cell: Child) -> Markup:
    if isinstance(cell, Markup) and cell.startswith("<td"):
        return cell
    return tag("td", cell, data_sort=_sorted_by(cell))


def _sorted_by(cell: Child) -> str | None:
    return sort_key(cell) if isinstance(cell, str) and not isinstance(cell, Markup) else None


def paragraph(*children: Child, class_: str | None = None) -> Markup:
    """One paragraph."""
    return tag("p", *children, class_=class_)


def unfold(summary: str, *children: Child) -> Markup:
    """Content that is folded away until asked for."""
    return tag("details", tag("summary", summary), *children)


def abridged(summary: str, text: str) -> tuple[str, Markup | None]:
    """The beginning of a text and, if that is not all of it, the whole, folded away."""
    brief = text.partition("\n")[0][:SHOWN_AT_ONCE]
    return brief, unfold_text(summary, text) if brief != text else None


def unfold_text(summary: str, text: str) -> Markup:
    """Text as it stands, folded away; where it is long its box scrolls, by keyboard too."""
    return unfold(summary, tag("pre", tag("code", text), tabindex=0, role="region", aria_label=summary))
