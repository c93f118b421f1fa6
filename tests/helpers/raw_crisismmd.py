"""A small CrisisMMD in the official layout: three tables of the humanitarian task, and the pictures they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedrecon_core.datasets.crisismmd import CrisisMmd
from fedrecon_core.preparation.writer import write_site_folder
from tests.helpers.features import toy_features

CLASSES = (
    "affected_individuals",
    "infrastructure_and_utility_damage",
    "injured_or_dead_people",
    "missing_or_found_people",
    "not_humanitarian",
    "other_relevant_information",
    "rescue_volunteering_or_donation_effort",
    "vehicle_damage",
)
EVENTS = (
    "california_wildfires",
    "hurricane_harvey",
    "hurricane_irma",
    "hurricane_maria",
    "iraq_iran_earthquake",
    "mexico_earthquake",
    "srilanka_floods",
)
PARTS = ("train", "dev", "test")
TABLES = "crisismmd_datasplit_all"


def rows(part: str, count: int) -> list[dict[str, Any]]:
    """The lines of a table. The third and fourth picture of every six are of one tweet."""
    lines = []
    for number in range(count):
        first = number - 1 if number % 6 == 3 else number
        tweet = 917791044158185400 + PARTS.index(part) * 10_000 + first
        event, image, label = EVENTS[first % 7], f"{tweet}_{number - first}", CLASSES[number % 8]
        cells = {
            "event_name": event,
            "tweet_id": tweet,
            "image_id": image,
            "tweet_text": f'RT @who: "{part} {label} {first} &amp; more https://t.co/x{first} https://t.co/yÂ',
            "image": f"data_image/{event}/10_{1 + first % 9}_2017/{image}.jpg",
            "label": label,
            "label_text": CLASSES[(number + 1) % 8],
            "label_image": label,
            "label_text_image": "Negative",
        }
        lines.append(cells)
    return lines


def table(raw: Path, part: str) -> Path:
    """The path of the table of a part."""
    return raw / TABLES / f"task_humanitarian_text_img_{part}.tsv"


def write_table(path: Path, lines: list[dict[str, Any]], encoding: str = "utf-8") -> None:
    """A table as the official ones are: tabs, and no quoting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [list(lines[0]), *(line.values() for line in lines)]
    text = "".join("\t".join(map(str, line)) + "\n" for line in cells)
    path.write_bytes(text.encode(encoding))


def write_picture(path: Path, shade: int) -> None:
    """A JPEG of 8 x 8 pixels around a grey."""
    from PIL import Image

    pixels = np.clip(shade + np.arange(192).reshape(8, 8, 3) % 40, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def write(raw: Path, counts: tuple[int, int, int] = (24, 12, 12)) -> Path:
    """The raw folder with so many pictures in train, dev and test."""
    for part, count in zip(PARTS, counts, strict=True):
        lines = rows(part, count)
        write_table(table(raw, part), lines)
        for number, line in enumerate(lines):
            write_picture(raw / line["image"], 25 * CLASSES.index(line["label_image"]) + number % 20)
    return raw


def prepared(raw: Path, out: Path, cache: Path, **keys: Any) -> Path:
    """``out``, prepared from the raw folder with toy features."""
    with toy_features():
        checked = CrisisMmd.Raw(**{"image": "toy_image", "text": "toy_text", **keys})
        write_site_folder(CrisisMmd.read_raw(checked, raw, cache), out, lambda *_: None)
    return out


def root(base: Path) -> Path:
    """The prepared folder of the toy."""
    return prepared(write(base / "raw"), base / "prepared", base / "cache")
