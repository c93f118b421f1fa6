"""The views of a page: its width, its colour scheme, and what may differ between machines."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib
from markupsafe import escape

from tests.helpers.chromium import Chromium
from tests.looks.pages import PAGES

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
