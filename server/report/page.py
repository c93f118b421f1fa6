"""What all reports are made of: one HTML file with its style and its script in it, and nothing from the net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from server.report.files import write_whole
from server.report.markup import Child, Markup, paragraph, tag
from server.report.script import SCRIPT, source_hash
from server.report.style import CSS

REPORT = "report.html"
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {source_hash()}"
Told = TypeVar("Told")


@dataclass(frozen=True)
class Section(Generic[Told]):
    """One part of the page: its anchor, its title, its content (nothing: ``empty`` says why) and what to say then."""

    anchor: str
    title: str
    content: Callable[[Told], Markup]
    empty: str


def document(told: Told, name: str, top: Sequence[Child], sections: Sequence[Section[Told]], closing: str) -> str:
    """The whole page on what is ``told``: ``top``, links to the sections, the sections, and a last line."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{name} · FedRecon"),
        tag("style", Markup(CSS)),
    )
    main = tag("main", *top, _navigation(sections), *(_section(one, told) for one in sections), id="content")
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    body = tag("body", skip, main, tag("footer", closing), tag("script", Markup(SCRIPT)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def write_page(directory: Path, text: str) -> Path:
    """Write ``report.html`` into ``directory`` (``write_whole``), and return its path."""
    path = directory / REPORT
    write_whole(path, lambda part: part.write_bytes(text.encode("utf-8", errors="replace")))
    return path


def tile(name: str, figure: str, hint: str) -> Markup:
    """One of the numbers at the top of a page, in a ``dl`` of the class ``tiles``."""
    below = tag("dd", hint, class_="hint") if hint else None
    return tag("div", tag("dt", name), tag("dd", figure, class_="figure"), below)


def _navigation(sections: Sequence[Section[Told]]) -> Markup:
    links = (tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in sections)
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _section(section: Section[Told], told: Told) -> Markup:
    content = section.content(told) or paragraph(section.empty, class_="hint")
    heading = tag("h2", section.title, id=f"{section.anchor}-title")
    return tag("section", heading, content, id=section.anchor, aria_labelledby=f"{section.anchor}-title")
