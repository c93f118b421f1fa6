"""The reports of a run and of a sweep, the views in which they are looked at, and scripts that break them.

The reports are made from fixed inputs, with the same bytes at any place and time. A view is a width and a color scheme.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from server.report.run import write_report
from server.report.sweep import write_sweep_report
from tests.helpers.chromium import Chromium
from tests.helpers.reports import SITES, write_run
from tests.helpers.sweeps import Labels, right_with, write_results

PAGES = ("run", "sweep")
RATES, SEEDS = ["0.3", "0.6"], ["1", "2"]
TABLE = {"rows": ["recovery"], "columns": ["rate"], "metrics": ["accuracy"], "baseline": {"recovery": "mask"}}
CHANCE = {"zero": 0.2, "mask": 0.7}
BEST = 0.8
MISSING = {"recovery": "zero", "rate": "0.6", "seed": "2"}
FAILED = "mask-0.6-2"


def write_pages(folder: Path, name: str = "fedrecon") -> dict[str, Path]:
    """Write both reports below ``folder``; return page -> path. ``name`` is the name of the run and of its sites, and
    of a method of the sweep."""
    run = write_run(folder / "run", [f"{name}-{site}" for site in range(SITES)], name)
    return {"run": write_report(run), "sweep": write_sweep_report(_write_sweep(folder / "sweep", name))}


def _write_sweep(folder: Path, name: str) -> Path:
    """Write twelve trials, of which one failed and one is missing."""
    axes = {"recovery": [*CHANCE, name], "rate": RATES, "seed": SEEDS}
    write_results(folder, axes, _predictions, **TABLE)
    for cell in (folder / "cells").iterdir():
        chance = CHANCE.get(cell.name.split("-")[0], BEST)
        lines = [{"round": turn, "split": "validation", "accuracy": chance * turn / (turn + 1)} for turn in range(1, 6)]
        (cell / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    failed = {"status": "failed", "error": "no room left\nTraceback"}
    (folder / "cells" / FAILED / "result.json").write_text(json.dumps(failed))
    return folder


def _predictions(labels: Labels) -> NDArray[np.int64] | None:
    return None if labels == MISSING else right_with(CHANCE.get(labels["recovery"], BEST), int(labels["seed"]))


# --- views ----------------------------------------------------------------------------------------------------------

WIDTHS = {"phone": 390, "desktop": 1200}
SCHEMES = ("light", "dark")
POLICY = escape("default-src 'none';")
FONTS = {"narrow letters": "STIXGeneral.ttf", "wide letters": "DejaVuSansMono.ttf"}
"""Both come with matplotlib, so every machine has them."""


@dataclass(frozen=True)
class View:
    """A ``page``, on a ``device`` with a ``scheme``; ``scale``: pixels per CSS pixel."""

    page: str
    device: str
    scheme: str
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.page}-{self.device}-{self.scheme}"

    def show(self, browser: Chromium, path: Path) -> None:
        """Open the file ``path``."""
        browser.open(path, WIDTHS[self.device], 844, self.scheme, self.scale)


VIEWS = tuple(View(*words) for words in product(PAGES, WIDTHS, SCHEMES))


def in_letters(path: Path, font: str, copy: Path) -> Path:
    """Write a ``copy`` of a page with all its text in one of `FONTS`."""
    data = base64.b64encode((Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[font]).read_bytes()).decode()
    face = f'@font-face {{ font-family: Other; src: url("data:font/ttf;base64,{data}"); }}'
    text = path.read_text(encoding="utf-8")
    assert POLICY in text and "</style>" in text
    text = text.replace(POLICY, f"{POLICY} font-src data:;")
    copy.write_text(text.replace("</style>", f"{face} * {{ font-family: Other !important; }}</style>"))
    return copy


# --- alterations ----------------------------------------------------------------------------------------------------

HIDE = "document.querySelectorAll('{}').forEach((mark) => {{ mark.style.visibility = 'hidden'; }})"
SPOILT = {
    "drawing curves: Validation scores": HIDE.format("#curves figure:nth-child(1) .line"),
    "drawing curves: Loss of the task model": HIDE.format("#curves figure:nth-child(2) .line.c2"),
    "drawing pictures: picture": HIDE.format(".picture"),
    "column traffic: Traffic by site": HIDE.format("#traffic .fill"),
    "column sites: Participation of the sites by round": HIDE.format("#sites .strip rect"),
    "column classes: Training samples of each class, by site": (
        "document.querySelectorAll('#classes .heat').forEach((cell) => { cell.className = ''; })"
    ),
    "place time": "document.querySelector('#time').style.display = 'none'",
}
"""Part of the report of a run -> script that breaks this part only: an empty chart, a chart without one of its lines, a
hidden picture, bars without fill, strips without cells, a table without its shades, a hidden section."""
RECOLOURED = {
    "light cards in the dark": "document.documentElement.style.setProperty('--card', '#ffffff')",
    "colours inverted": "document.documentElement.style.filter = 'invert(1)'",
    "no style": "document.querySelector('style').remove()",
}
"""Scripts that break a whole page in the dark scheme."""
