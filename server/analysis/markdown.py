"""Sheets as Markdown, as GitHub shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from server.analysis.tables import Sheet, Text

_MARKS = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}


def render(sheets: Iterable[Sheet], notes: Iterable[str] = ()) -> str:
    """A heading, a table and its sentences for each sheet; ``notes`` on all of them last."""
    return "\n".join([*map(_sheet, sheets), *(f"{_escaped(note)}\n" for note in notes)])


def _sheet(sheet: Sheet) -> str:
    aligned = ["---" if place < sheet.left else "---:" for place in range(len(sheet.header))]
    table = [_line(map(_escaped, sheet.header)), _line(aligned), *(_line(map(_marked, row)) for row in sheet.rows)]
    about = [f"\n{_escaped(sentence)}" for sentence in sheet.about]
    return "\n".join([f"### {_escaped(sheet.title)}", *(["", *table] if sheet.rows else []), *about, ""])


def _line(fields: Iterable[str]) -> str:
    return f"| {' | '.join(fields)} |"


def _marked(text: Text) -> str:
    return _MARKS[text.place].format(_escaped(text.words))


def _escaped(words: str) -> str:
    # an underscore inside a word is one, and stays as people copy it
    return re.sub(r"([\\`*|]|(?<!\w)_|_(?!\w))", r"\\\1", words).replace("&", "&amp;").replace("<", "&lt;")
