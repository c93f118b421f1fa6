"""What a page looks like, coarsely: each of its parts as a picture of 16 x 16 blocks, beside the stored one.

A part is a place (a section, the tiles, a notice, ...), a drawing (a chart, the grid of reconstructions) or, of a
table, its first column of bars or shades. Each is cut out for itself, so that text that takes one line more in another
font does not move the parts below it. A block is compared with that of the nearest colour among the stored one and its
eight neighbours, and the other way round. Two blocks are apart by the mean difference of their red, green and blue, of
0 to 1; two parts by the mean over their blocks, but two drawings, whose lines are thin, by the mean over the twentieth
of the blocks that differs most.

After a change that is meant to be seen, make the stored pictures again, look at them, and commit them:

    python -m tests.looks.pictures
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.helpers.chromium import Chromium
from tests.looks.pages import write_pages
from tests.looks.views import VIEWS, View

FOLDER = Path(__file__).parent
RENEW = "python -m tests.looks.pictures"
SIDE = 16
DRAWN = 20
TOLERANCE = {"place": 0.045, "drawing": 0.04, "column": 0.05}
"""How far a part may be apart, by its kind. By ``python -m tests.looks.measured``, over all views: other letters and
screens set places apart by 0.022 at most, drawings by 0.025, columns by 0.019. What is broken is further apart: an
empty chart by 0.13, one that lacks one of two lines by 0.052, bars without what fills them by 0.14, a page without its
style by 0.080."""
Blocks = NDArray[np.float64]
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
    """The parts of a page: its kind and name -> blocks [16, 16, 3] of 0 to 1."""

    parts: dict[str, Blocks]

    def save(self, path: Path) -> None:
        """As a PNG, one part below the other, with their names in it."""
        names = PngInfo()
        names.add_text("parts", "\n".join(self.parts))
        stacked = np.concatenate(list(self.parts.values()))
        Image.fromarray((stacked * 255).round().astype(np.uint8)).save(path, pnginfo=names, optimize=True)


def stored(view: View) -> Path:
    """Where the picture of a view is kept."""
    return FOLDER / f"{view}.png"


def load(path: Path) -> Look:
    """A look that was saved."""
    with Image.open(path) as image:
        stacked, names = np.asarray(image, dtype=np.float64) / 255, image.info["parts"].split("\n")
    return Look(dict(zip(names, stacked.reshape(len(names), SIDE, SIDE, 3), strict=True)))


def photograph(browser: Chromium) -> Image.Image:
    """The whole page."""
    return Image.open(io.BytesIO(browser.picture(whole=True))).convert("RGB")


def look(browser: Chromium, image: Image.Image, scale: float = 1.0) -> Look:
    """The parts of the page that the browser shows, in a photograph of it; ``scale``: pixels for one of CSS."""
    boxes = browser.ask(PARTS)
    parts = {name: _blocks(image, [side * scale for side in sides]) for name, *sides in boxes}
    assert len(parts) == len(boxes), f"two parts of one name: {[name for name, *_ in boxes]}"
    return Look(parts)


def _blocks(image: Image.Image, sides: list[float]) -> Blocks:
    """The part at x, y of a width and a height, as blocks."""
    x, y, width, height = sides
    box = (max(0.0, x), max(0.0, y), min(x + width, image.width), min(y + height, image.height))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, box), dtype=np.float64) / 255


def distance(name: str, one: Blocks, other: Blocks) -> float:
    """How far two looks of a part are apart, of 0 to 1."""
    return max(_of_part(name, _apart(*pair)) for pair in ((one, other), (other, one)))


def _apart(one: Blocks, other: Blocks) -> Blocks:
    """Of each block of the ``one`` [16, 16] how far the nearest at its place in the ``other`` is."""
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
    """What is there in one alone, and which parts are further apart than they may be."""
    lacking = [f"{name}: is not there any more" for name in expected.parts if name not in found.parts]
    new = [f"{name}: was not there" for name in found.parts if name not in expected.parts]
    apart = {n: distance(n, found.parts[n], expected.parts[n]) for n in expected.parts if n in found.parts}
    far = {name: far for name, far in apart.items() if far > TOLERANCE[_kind(name)]}
    return [*lacking, *new, *(f"{n}: {far:.3f} apart, at most {TOLERANCE[_kind(n)]}" for n, far in far.items())]


def renew() -> None:
    """Make all stored pictures again, and drop those of views that are no more."""
    with tempfile.TemporaryDirectory() as folder:
        pages, browser = write_pages(Path(folder)), Chromium(Path(folder) / "profile")
        for view in VIEWS:
            view.show(browser, pages[view.page])
            look(browser, photograph(browser)).save(stored(view))
        browser.close()
    for path in set(FOLDER.glob("*.png")) - set(map(stored, VIEWS)):
        path.unlink()


if __name__ == "__main__":
    renew()
