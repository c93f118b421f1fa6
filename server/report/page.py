"""The frame of both reports: one self-contained HTML file, rendered from ``templates/`` and ``static/``.

Templates, style and script end in ``.md`` because Flower's app bundle, in which a ServerApp writes its report, drops
``.html``, ``.css`` and ``.js`` files.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from server.report.charts import shade
from server.runs import formatting
from server.runs.directory import write_file

REPORT = "report.html"
FOLDER = Path(__file__).parent
BRIEF = 300
"""Number of characters of a long text, such as an error, that are shown without unfolding it."""
Source = TypeVar("Source")


@dataclass(frozen=True)
class Section(Generic[Source]):
    """One section of a report.

    The block named ``anchor`` of the report's template draws what ``content`` returns, under the variable of the same
    name. If there is nothing to show, ``content`` returns None, and the section consists of the sentence ``empty``.
    """

    anchor: str
    title: str
    content: Callable[[Source], Any]
    empty: str


@dataclass(frozen=True)
class Tile:
    """One of the key numbers at the top of a page."""

    name: str
    figure: str
    hint: str


def brief(text: str) -> str:
    """Return the beginning of a text: its first line, at most ``BRIEF`` characters."""
    return text.partition("\n")[0][:BRIEF]


@functools.cache
def environment() -> Environment:
    """Return the Jinja environment of the templates, with the number formats as filters."""
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("count", "decimal", "listing", "percent", "plural", "seconds", "size")
    found.filters.update(
        {name: getattr(formatting, name) for name in names},
        brief=brief,
        shade=shade,
        quote=shlex.quote,
    )
    script = (FOLDER / "static" / "sort.js.md").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    found.globals.update(
        style=Markup((FOLDER / "static" / "style.css.md").read_text(encoding="utf-8")),
        script=Markup(script),
        # The browser runs this script, byte for byte, and no other.
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
    )
    return found


def render(template: str, source: Source, sections: Sequence[Section[Source]], **context: Any) -> str:
    """Render a template of the folder ``templates`` that extends ``page.html.md``.

    Its variables are ``context``, which needs ``name`` and ``closing`` (the last line of the page), and the content
    of each section.
    """
    content = {section.anchor: section.content(source) for section in sections}
    return environment().get_template(template).render(sections=sections, content=content, **content, **context)


def write_page(directory: Path, text: str) -> Path:
    """Write ``report.html`` into ``directory``, whole or not at all, and return its path.

    Raises:
        RunError: the file cannot be written; an older one is unchanged.
    """
    path = directory / REPORT
    write_file(path, lambda part: part.write_bytes(text.encode("utf-8", errors="replace")))
    return path
