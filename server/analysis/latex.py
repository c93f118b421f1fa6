"""Sheets as LaTeX tables (package booktabs)."""

from __future__ import annotations

from collections.abc import Iterable

from fedrecon_core.errors import one_line
from server.analysis.tables import Sheet, Text

_MARKS = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a line's end it would begin an argument
    "±": r"$\pm$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def render(sheets: Iterable[Sheet], notes: Iterable[str] = ()) -> str:
    """A ``table`` environment for each sheet that has rows; ``notes`` on all of them are comments before the first."""
    comments = ("needs \\usepackage{booktabs}", *map(one_line, notes))
    head = "".join(f"% {comment}\n" for comment in comments)
    return head + "\n".join(_sheet(sheet) for sheet in sheets if sheet.rows)


def _sheet(sheet: Sheet) -> str:
    columns = "".join("l" if place < sheet.left else "r" for place in range(len(sheet.header)))
    caption = f"{_escaped(sheet.title)}. {' '.join(map(_escaped, sheet.about))}".strip()
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            _line(map(_escaped, sheet.header)),
            r"    \midrule",
            *(_line(map(_marked, row)) for row in sheet.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _line(fields: Iterable[str]) -> str:
    return f"    {' & '.join(fields)} \\\\"


def _marked(text: Text) -> str:
    return _MARKS[text.place].format(_escaped(text.words))


def _escaped(words: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in words)
