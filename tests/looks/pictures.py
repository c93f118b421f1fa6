"""The coarse look of a page: each of its parts as a picture of 16 x 16 blocks, compared with the stored one.

A part is a place (a section, the tiles, a notice, ...), a drawing (a chart, the grid of reconstructions) or, of a
table, its first column of bars or shades. Each part is cut out on its own, so that a text with one more line in another
font does not move the parts below it. A block is compared with that of the nearest colour among the stored one and its
eight neighbours, and the other way round. The distance of two blocks is the mean
difference of their red, green and blue, 0 to 1; that of two parts is the mean over their blocks. For drawings, whose
lines are thin, it is the mean over the twentieth of the blocks that differs most.

After an intended visible change, renew the stored pictures, look at them, and commit them:

    python -m tests.looks.pictures

`TOLERANCE` must be between the distances of one page on different machines and those of broken pages:

    python -m tests.looks.pictures measure
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.helpers.chromium import Chromium
from tests.looks.pages import FONTS, RECOLOURED, SPOILT, VIEWS, View, in_letters, write_pages

FOLDER = Path(__file__).parent
RENEW = "python -m tests.looks.pictures"
SIDE = 16
DRAWN = 20
TOLERANCE = {"place": 0.045, "drawing": 0.04, "column": 0.05}
"""Largest distance allowed, by the kind of the part. By ``python -m tests.looks.pictures measure``, over all views:
other fonts and screens give distances of at most 0.022 for places, 0.025 for drawings, 0.019 for columns. Broken
pages differ more: an empty chart by 0.13, a chart without one of its two lines by 0.052, bars without fill by 0.14,
a page without its style by 0.080."""
Blocks = NDArray[np.float64]
Distance = tuple[str, float]
SCALES = (1.0, 1.25, 2.0)
PARTS = """
(() => {
  const box = ({ x, y, width, height }) => [x + scrollX, y + scrollY, width, height];
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
  const named = (kind, name, element) => [`${kind} ${name}`, ...box(element.getBoundingClientRect())];
  const column = (table) => {
    const at = table.querySelector("tbody .bar, tbody .strip, tbody .heat")?.closest("td").cellIndex;
    const cells = at ? [...table.tBodies[0].rows].map((row) => row.cells[at]) : [];
    const boxes = cells.map((cell) => (cell.querySelector("svg") ?? cell).getBoundingClientRect());
    const [first, last] = [boxes[0], boxes.at(-1)];
    const name = `column ${table.closest("section").id}: ${table.caption.textContent}`;
    return boxes.length ? [[name, ...box(new DOMRect(first.x, first.y, first.width, last.bottom - first.y))]] : [];
  };
  return [
    ...seen("header, nav, .notice, .tiles, section").map((place) =>
      named("place", place.id || place.ariaLabel || place.className || place.localName, place)),
    ...seen(".chart, .picture").map((drawing) => {
      const title = drawing.querySelector("title")?.textContent ?? drawing.className;
      return named("drawing", `${drawing.closest("section").id}: ${title}`, drawing);
    }),
    ...seen("table").flatMap(column),
  ];
})()
"""


@dataclass(frozen=True)
class Look:
    """The parts of a page: kind and name -> blocks, [16, 16, 3], 0 to 1."""

    parts: dict[str, Blocks]

    def save(self, path: Path) -> None:
        """Save the parts as one PNG, one below the other, with their names as metadata."""
        names = PngInfo()
        names.add_text("parts", "\n".join(self.parts))
        stacked = np.concatenate(list(self.parts.values()))
        Image.fromarray((stacked * 255).round().astype(np.uint8)).save(path, pnginfo=names, optimize=True)


def stored(view: View) -> Path:
    """Return the path of the stored picture of a view."""
    return FOLDER / f"{view}.png"


def load(path: Path) -> Look:
    """Load a saved look."""
    with Image.open(path) as image:
        stacked, names = np.asarray(image, dtype=np.float64) / 255, image.info["parts"].split("\n")
    return Look(dict(zip(names, stacked.reshape(len(names), SIDE, SIDE, 3), strict=True)))


def photograph(browser: Chromium) -> Image.Image:
    """Take a screenshot of the whole page."""
    return Image.open(io.BytesIO(browser.picture(whole=True))).convert("RGB")


def look(browser: Chromium, image: Image.Image, scale: float = 1.0) -> Look:
    """Cut the parts of the page that the browser shows out of a screenshot; ``scale``: pixels per CSS pixel."""
    boxes = browser.ask(PARTS)
    parts = {name: _blocks(image, [side * scale for side in sides]) for name, *sides in boxes}
    assert len(parts) == len(boxes), f"two parts of one name: {[name for name, *_ in boxes]}"
    return Look(parts)


def _blocks(image: Image.Image, sides: list[float]) -> Blocks:
    """Return the part at x, y, width, height as blocks."""
    x, y, width, height = sides
    box = (max(0.0, x), max(0.0, y), min(x + width, image.width), min(y + height, image.height))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, box), dtype=np.float64) / 255


def distance(name: str, one: Blocks, other: Blocks) -> float:
    """Return the distance of two looks of a part, 0 to 1."""
    return max(_of_part(name, _apart(*pair)) for pair in ((one, other), (other, one)))


def _apart(one: Blocks, other: Blocks) -> Blocks:
    """Return, for each block of ``one``, the distance to the nearest of the blocks around its place in ``other``."""
    padded = np.pad(other, ((1, 1), (1, 1), (0, 0)), mode="edge")
    near = [padded[down : down + SIDE, across : across + SIDE] for down in range(3) for across in range(3)]
    apart: Blocks = np.abs(one - np.stack(near)).mean(axis=-1).min(axis=0)
    return apart


def _of_part(name: str, apart: Blocks) -> float:
    counted = np.sort(apart, axis=None)[-(apart.size // DRAWN) :] if _kind(name) == "drawing" else apart
    return float(counted.mean())


def _kind(name: str) -> str:
    return name.split(" ", maxsplit=1)[0]


def differences(found: Look, expected: Look) -> list[str]:
    """List the parts that only one of the looks has, and those whose distance is too large."""
    lacking = [f"{name}: is missing" for name in expected.parts if name not in found.parts]
    new = [f"{name}: is new" for name in found.parts if name not in expected.parts]
    apart = {n: distance(n, found.parts[n], expected.parts[n]) for n in expected.parts if n in found.parts}
    far = {name: far for name, far in apart.items() if far > TOLERANCE[_kind(name)]}
    return [*lacking, *new, *(f"{n}: {far:.3f} apart, at most {TOLERANCE[_kind(n)]}" for n, far in far.items())]


def renew() -> None:
    """Renew all stored pictures, and delete those of views that no longer exist."""
    with tempfile.TemporaryDirectory() as folder:
        pages, browser = write_pages(Path(folder)), Chromium(Path(folder) / "profile")
        for view in VIEWS:
            view.show(browser, pages[view.page])
            look(browser, photograph(browser)).save(stored(view))
        browser.close()
    for path in set(FOLDER.glob("*.png")) - set(map(stored, VIEWS)):
        path.unlink()


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
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        renew()
