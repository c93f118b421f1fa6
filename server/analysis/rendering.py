"""Score tables as text: sheets of cells, and these as Markdown, LaTeX and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedrecon_core.errors import one_line
from fedrecon_core.metrics.base import is_percentage, metric_title
from server.analysis.bootstrap import DRAWS
from server.analysis.published import Labels
from server.analysis.tables import Key, ScoreTable, as_number, named
from server.runs.formatting import DASH, count, decimal, percent, plural, seconds, size

ABOUT_INTERVALS = (
    "Interval and p are Student's; the degrees of freedom are the smaller of the numbers of seeds and of groups, less "
    "one. The variance has a part of the seeds and a part of the groups of test samples (subjects, source images), the "
    f"latter by {DRAWS} bootstrap draws. With one seed, the interval covers the groups only, for this one training. "
    "Holm's p-values correct for all methods that are compared under the same conditions; intervals are not adjusted."
)


@dataclass(frozen=True)
class Text:
    """One cell of a sheet.

    ``place``: 1 is bold, 2 underlined. ``value``: the number by which the cell is sorted; None if it is no number.
    """

    text: str
    place: int = 0
    value: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table of text with its title and the sentences below it; the first ``left`` columns are names."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Text]]
    about: Sequence[str] = ()
    left: int = 1


@dataclass(frozen=True)
class TimeColumn:
    """The kind of training time that is shown.

    ``column``: its column of the trials; ``head``: the header of its column in a table; ``about``: a sentence about it.
    """

    column: str
    head: str
    about: str

    def written(self, value: float | None) -> str:
        """Return the value as text; a dash if it is unknown."""
        return decimal(value) if self.column == "train_processor_seconds" else seconds(value)


def time_column(trials: pd.DataFrame) -> TimeColumn:
    """Choose processor time if all ``trials`` measured it for their work, or else wall-clock time for all of them, so
    that the numbers can be compared. With a GPU, processor time only measures the waiting for it."""
    on_cpu = trials["device"].isna() | (trials["device"] == "cpu")
    lacking = int((~on_cpu | trials["train_processor_seconds"].isna()).sum())
    if not lacking:
        about = "CPU s: seconds that the processors of the sites worked in training, all sites and rounds."
        return TimeColumn("train_processor_seconds", "CPU s", about)
    about = (
        "Training time is wall clock, which grows with all else that a machine does at the time: "
        f"{lacking} of {plural(len(trials), 'cell')} did not measure the processor's, or worked on a GPU."
    )
    return TimeColumn("train_seconds", "Training time (wall clock)", about)


def sheets(tables: Sequence[ScoreTable]) -> Iterator[Sheet]:
    """For each table its scores, then the differences from the baseline; and once per section the costs."""
    sections: list[Labels] = []
    for table in tables:
        yield score_sheet(table)
        if table.cells["difference"].notna().any() or table.notes:
            yield difference_sheet(table)
        if table.section not in sections:
            sections.append(table.section)
            yield cost_sheet(table)


def score(value: float, metric: str) -> str:
    """A share as per cent without the sign, ``57.8``; a loss as it is, ``0.942``. A printed zero has no sign."""
    text = f"{100 * value:.1f}" if is_percentage(metric) else f"{value:.3f}"
    return text if text.strip("-0.") else text.removeprefix("-")


def signed_score(value: float, metric: str) -> str:
    """A difference in the same format, ``+1.2``."""
    text = score(value, metric)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def metric_label(metric: str) -> str:
    """Return the title of the metric with its unit."""
    return f"{metric_title(metric)}{' (%)' if is_percentage(metric) else ''}"


def points(metric: str) -> str:
    """Return the unit of a difference, to append to its name."""
    return " (points)" if is_percentage(metric) else ""


def known(value: Any) -> float | None:
    """Return ``value``; None if it is missing."""
    return None if pd.isna(value) else float(value)


def score_sheet(table: ScoreTable) -> Sheet:
    """The scores of a table, laid out in its rows and columns."""
    cells, metric = table.cells, table.metric
    most = int(cells["seeds"].max())
    about = [f"Test scores: mean ± standard deviation over {most} seeds." if most > 1 else "Test scores of one seed."]
    if cells["place"].any():
        about.append("Bold: best of the methods compared; underlined: second best.")
    if (cells["seeds"] < most).any():
        about.append("Means marked (n = ...) are over fewer seeds.")
    if cells["published"].notna().any():
        about.append("In brackets: published.")
    rows = []
    for down, row in enumerate(table.rows):
        keys = [(down, across) for across in range(len(table.columns))]
        scores = [score_text(table.cell(key), metric, most) if key in cells.index else Text(DASH) for key in keys]
        rows.append([*(Text(value, value=as_number(value)) for value in row.values()), *scores])
    header = [*table.rows[0], *(named(column) or metric_title(metric) for column in table.columns)]
    title = _titled(metric_label(metric), table.section)
    return Sheet(title, header, rows, [" ".join(about), *table.remarks], len(table.rows[0]))


def score_text(cell: pd.Series[Any], metric: str, most: int) -> Text:
    """``57.8 ± 0.4 (n = 2) [58.1]``: the mean, the deviation, the number of seeds where others have more, and the
    published value."""
    text = score(cell["mean"], metric)
    if pd.notna(cell["deviation"]):
        text += f" ± {score(cell['deviation'], metric)}"
    if cell["seeds"] < most:
        text += f" (n = {cell['seeds']})"
    if pd.notna(cell["published"]):
        text += f" [{cell['published_text']}]"
    return Text(text, cell["place"], cell["mean"])


def difference_sheet(table: ScoreTable) -> Sheet:
    """The differences of the cells from the baseline, a row for each."""
    metric, cells = table.metric, table.cells[table.cells["difference"].notna()]
    rows = []
    for key in sorted(cells.index, key=lambda key: key[::-1]):
        cell, interval = table.cell(key), DASH
        if pd.notna(cell["difference_low"]):
            interval = f"{score(cell['difference_low'], metric)} to {score(cell['difference_high'], metric)}"
        rows.append(
            [
                *_names(table, key),
                Text(signed_score(cell["difference"], metric), value=cell["difference"]),
                Text(interval, value=known(cell["difference_low"])),
                *(_number(cell[name], p_value) for name in ("p", "p_holm")),
                *(_number(cell[name], count) for name in ("difference_seeds", "test_groups")),
            ]
        )
    names = [*table.rows[0], *table.columns[0]]
    header = [*names, "Difference", "95% interval", "p", "p (Holm)", "Seeds", "Test groups"]
    with_interval = f" {ABOUT_INTERVALS}" if cells["difference_low"].notna().any() else ""
    about = [f"Paired by seed.{with_interval}"] if rows else []
    title = f"{metric_title(metric)} less that of {named(table.baseline)}{points(metric)}"
    return Sheet(_titled(title, table.section), header, rows, [*about, *table.notes], len(names))


def cost_sheet(table: ScoreTable) -> Sheet:
    """The costs of the cells, a row for each."""
    time = time_column(table.trials)
    formats = {
        "seeds": str,
        "missing_train": percent,
        "missing_test": percent,
        "tensor_bytes": size,
        "parameters": count,
        time.column: time.written,
    }
    rows = [
        [*_names(table, key), *(_number(table.cell(key)[name], written) for name, written in formats.items())]
        for key in table.keys
    ]
    names = [*table.rows[0], *table.columns[0]]
    header = [*names, "Seeds", "Missing in training", "Missing in test", "Tensor bytes", "Parameters", time.head]
    about = [
        "Means over the seeds. Missing: the share of all values of the modalities that were absent in effect. Tensor "
        f"bytes: both ways, all sites and rounds. {time.about}"
    ]
    return Sheet(_titled("What the scores cost", table.section), header, rows, about, len(names))


def _titled(title: str, section: Labels) -> str:
    return f"{title}: {named(section)}" if section else title


def _names(table: ScoreTable, key: Key) -> list[Text]:
    values = (*table.rows[key[0]].values(), *table.columns[key[1]].values())
    return [Text(value, value=as_number(value)) for value in values]


def _number(value: Any, written: Any) -> Text:
    return Text(written(value if pd.notna(value) else None), value=known(value))


def p_value(value: float | None) -> str:
    """A p-value with three decimals; a dash where there is none."""
    if value is None:  # a single seed has no p-value, and a bound no adjusted one, since it is not ranked
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


_MARKDOWN = {0: "{}", 1: "**{}**", 2: "<ins>{}</ins>"}
_LATEX = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a line it would begin an argument
    "±": r"$\pm$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def to_markdown(sheets: Iterable[Sheet], notes: Iterable[str] = ()) -> str:
    """Markdown as GitHub shows it: a heading, a table and its sentences for each sheet, then the ``notes``."""
    parts = []
    for sheet in sheets:
        lines = [f"### {_escape_markdown(sheet.title)}"]
        if sheet.rows:
            aligned = ["---" if place < sheet.left else "---:" for place in range(len(sheet.header))]
            rows = [[_MARKDOWN[text.place].format(_escape_markdown(text.text)) for text in row] for row in sheet.rows]
            table = [map(_escape_markdown, sheet.header), aligned, *rows]
            lines += ["", *(f"| {' | '.join(cells)} |" for cells in table)]
        parts.append("\n".join([*lines, *(f"\n{_escape_markdown(sentence)}" for sentence in sheet.about), ""]))
    return "\n".join([*parts, *(f"{_escape_markdown(note)}\n" for note in notes)])


def _escape_markdown(text: str) -> str:
    # an underscore inside a word is left alone, so that names can be copied
    return re.sub(r"([\\`*|]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def to_latex(sheets: Iterable[Sheet], notes: Iterable[str] = ()) -> str:
    """A ``table`` environment (package booktabs) for each sheet that has rows; ``notes`` are comments before them."""
    comments = ("needs \\usepackage{booktabs}", *map(one_line, notes))
    parts = ["".join(f"% {comment}\n" for comment in comments)]
    for sheet in sheets:
        if not sheet.rows:
            continue
        columns = "".join("l" if place < sheet.left else "r" for place in range(len(sheet.header)))
        caption = f"{_escape_latex(sheet.title)}. {' '.join(map(_escape_latex, sheet.about))}".strip()
        rows = [[_LATEX[text.place].format(_escape_latex(text.text)) for text in row] for row in sheet.rows]
        header, *body = [f"    {' & '.join(cells)} \\\\" for cells in (map(_escape_latex, sheet.header), *rows)]
        lines = [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption}}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            *(r"    \toprule", header, r"    \midrule", *body, r"    \bottomrule"),
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
        parts.append("\n".join(lines))
    return parts[0] + "\n".join(parts[1:])


def _escape_latex(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in text)


def to_csv(tables: Sequence[ScoreTable]) -> str:
    """One long CSV: a line for each metric and cell, with every number unrounded; what is unknown is empty."""
    return pd.concat([table.long() for table in tables]).to_csv(index=False, lineterminator="\n")
