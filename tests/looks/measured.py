"""Measure the distances between looks: of one page on different machines, and of broken pages. `pictures.TOLERANCE`
must be between the two.

    python -m tests.looks.measured
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.helpers.chromium import Chromium
from tests.looks.alterations import RECOLOURED, SPOILT
from tests.looks.pages import write_pages
from tests.looks.pictures import TOLERANCE, Look, distance, load, look, photograph, stored
from tests.looks.views import FONTS, VIEWS, View, in_letters

Distance = tuple[str, float]
SCALES = (1.0, 1.25, 2.0)


def harmless(browser: Chromium, view: View, path: Path) -> Iterator[Distance]:
    """Yield, for each font and scale and each kind of part, the largest distance."""
    for font, scale in [(None, scale) for scale in SCALES] + [(font, 1.0) for font in FONTS]:
        shown = in_letters(path, font, path.with_name("other.html")) if font else path
        replace(view, scale=scale).show(browser, shown)
        browser.ask("document.fonts.ready.then(() => true)")
        found = look(browser, photograph(browser), scale)
        yield from _largest(f"{font or 'same letters'}, scale {scale:g}", found, load(stored(view)))


def spoilt(browser: Chromium, view: View, path: Path) -> Iterator[Distance]:
    """Yield the distance of each broken part, and for each broken page and kind of part the largest distance."""
    expected = load(stored(view))
    for part, script in SPOILT.items() if view.page == "run" else ():
        found = _after(script, browser, view, path).parts.get(part)
        yield f"broken: {part}", 1.0 if found is None else distance(part, found, expected.parts[part])
    for name, script in RECOLOURED.items() if view.scheme == "dark" else ():
        yield from _largest(f"broken: {name}", _after(script, browser, view, path), expected)


def _after(script: str, browser: Chromium, view: View, path: Path) -> Look:
    view.show(browser, path)
    browser.ask(f"{script}; null")
    return look(browser, photograph(browser))


def _largest(name: str, found: Look, expected: Look) -> Iterator[Distance]:
    for kind in TOLERANCE:
        parts = [part for part in expected.parts if part.startswith(kind)]
        yield f"{name}: {kind}", max(distance(part, found.parts[part], expected.parts[part]) for part in parts)


def measure() -> None:
    """Print the largest distance of harmless changes and the smallest of broken parts, over all views."""
    most: dict[str, float] = {}
    least: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        pages, browser = write_pages(Path(folder)), Chromium(Path(folder) / "profile")
        for view in VIEWS:
            for name, far in harmless(browser, view, pages[view.page]):
                most[name] = max(far, most.get(name, 0.0))
            for name, far in spoilt(browser, view, pages[view.page]):
                least[name] = min(far, least.get(name, 1.0))
        browser.close()
    for name, far in [*most.items(), *least.items()]:
        print(f"{far:.4f}  {name}")


if __name__ == "__main__":
    measure()
