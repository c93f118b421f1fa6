"""Data set ``crisismmd``: tweets about seven natural disasters with their pictures (Alam et al. 2018), version 2.0.

A sample is a picture with the text of its tweet; its class is that of the picture in the humanitarian task. A cluster
is a tweet, which may have several pictures; a natural id is a disaster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from fedrecon_core import config
from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.files import inside, read_text
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import (
    file_item,
    file_states,
    first_few,
    make_feature,
    rows_through,
    rows_version,
    text_item,
)
from fedrecon_core.preparation.raw_dataset import RawDataset, column
from fedrecon_core.registry import DATASETS
from fedrecon_core.types import DatasetSpec, StrictModel

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
"""Spelled as in the tables of the humanitarian task."""
PARTS = ("train", "dev", "test")
TABLES = "crisismmd_datasplit_all"
COLUMNS = ("event_name", "tweet_id", "image_id", "tweet_text", "image", "label_image")
LINK = re.compile(r"http\S+")
FAULT = (
    "protocol fedmultimodal: the text of the n-th test sample is that of the n-th validation sample, as in the "
    "benchmark, so picture and text of a test sample belong to different tweets, and the scores are too low."
)


class CrisisMmdRaw(StrictModel):
    """``straddling``: what to do if the pictures of one tweet are in several official splits; ``leave_out`` keeps only
    those in the last of these splits. ``encoding`` of the tables. ``image`` and ``text``: the features of the
    modalities."""

    straddling: Literal["refuse", "leave_out"] = "refuse"
    encoding: str = "utf-8"
    image: config.Feature = Field(default="mobilenet_v2", validate_default=True)
    text: config.Feature = Field(default="mobilebert", validate_default=True)


class CrisisMmdParams(DataParams):
    """``protocol: fedmultimodal`` gives the test samples the texts of validation samples, as the benchmark does."""

    protocol: Literal["default", "fedmultimodal"] = "default"


@dataclass(frozen=True)
class Picture:
    """A line of a table. ``part``: position in ``PARTS``; ``file``: relative to the raw folder; ``place``: file and
    line, for messages."""

    part: int
    place: str
    event: str
    tweet: int
    image: str
    text: str
    file: str
    label: int


@DATASETS.register("crisismmd")
class CrisisMmd(PreparedLoader):
    """The official splits of all pictures, including those whose text has another label."""

    Params = CrisisMmdParams
    Raw = CrisisMmdRaw
    name = "crisismmd"
    modalities = ("image", "text")

    @classmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        """The three tables of the humanitarian task, and a folder of pictures."""
        table = f"the official table of the task (columns {', '.join(COLUMNS)}, ...), from the archive {TABLES}.zip"
        pictures = "the pictures as <event>/<day>_<month>_<year>/<image>.jpg, from the archive CrisisMMD_v2.0.tar.gz"
        return [*(ExpectedFile(_table(part), table) for part in PARTS), ExpectedFile("data_image/*/*/*", pictures)]

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        """Read the pictures of the tables; ``DataError`` naming an invalid file."""
        checked = cast(CrisisMmdRaw, keys)
        image, text = make_feature("image", checked.image), make_feature("text", checked.text)
        pictures, kept = _read_tables(checked, raw)
        used = [pictures[number] for number in kept]
        files = [inside(raw, picture.file) for picture in used]
        lacking = [file.relative_to(raw) for file in files if not file.is_file()]
        if lacking:
            found = f"no {first_few(lacking)}"
            advice = "unpack the archive CrisisMMD_v2.0.tar.gz there"
            raise DataError(f"{raw}: expected the {len(files)} pictures of the tables, found {found}; {advice}")
        modalities = (image.modality("image"), text.modality("text"))
        events = {event: number for number, event in enumerate(sorted({picture.event for picture in used}))}
        return RawDataset(
            spec=DatasetSpec(name=cls.name, modalities=modalities, classes=CLASSES),
            samples=Samples(
                ids=column(kept),  # the positions of the pictures in the concatenated tables
                labels=column([picture.label for picture in used]),
                split=column([picture.part for picture in used]),
                cluster_ids=column([picture.tweet for picture in used]),
                present=np.ones((len(used), 2), dtype=np.bool_),
                natural_ids=column([events[picture.event] for picture in used]),
            ),
            rows={
                "image": rows_through(image, cache, lambda sample: file_item(files[sample])),
                "text": rows_through(text, cache, lambda sample: text_item(used[sample].text, used[sample].place)),
            },
            ragged=frozenset(name for name, feature in (("image", image), ("text", text)) if feature.ragged),
            names=[f"{PARTS[picture.part]} {picture.image}" for picture in used],
            version=rows_version((image, text), (*(picture.text for picture in used), *file_states(raw, files))),
        )

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Open the prepared folder with memory-mapped arrays."""
        dataset = self.open(root)
        if cast(CrisisMmdParams, params).protocol == "default":
            return dataset
        # The texts of the test split are those of the validation split, in order. Officially both have the same
        # length; if validation is shorter, it starts again.
        text = dataset.rows["text"].copy()
        validation, test = dataset.members(1), dataset.members(2)
        text[test] = np.resize(text[validation], len(test))
        return replace(dataset, rows={**dataset.rows, "text": text}, faults=(*dataset.faults, FAULT))


def _table(part: str) -> str:
    return f"{TABLES}/task_humanitarian_text_img_{part}.tsv"


def _read_tables(keys: CrisisMmdRaw, raw: Path) -> tuple[list[Picture], list[int]]:
    """Read all pictures of the tables, split by split, and the positions of those to use: each picture may be in the
    tables once, and those of a tweet are in one split."""
    pictures = [picture for part in range(len(PARTS)) for picture in read_table(keys, raw, part)]
    first: dict[str, str] = {}
    last: dict[int, int] = {}
    for picture in pictures:
        place = first.setdefault(picture.image, picture.place)
        if place != picture.place:
            found = f"{picture.image} in {place} and in {picture.place}"
            raise DataError(f"{raw}: expected every image_id once, found {found}; remove one")
        last[picture.tweet] = max(picture.part, last.get(picture.tweet, 0))
    straddling = sorted({picture.tweet for picture in pictures if picture.part != last[picture.tweet]})
    if straddling and keys.straddling == "refuse":
        parts = sorted({picture.part for picture in pictures if picture.tweet == straddling[0]})
        found = f"those of {straddling[0]} in {' and '.join(PARTS[part] for part in parts)}"
        if len(straddling) > 1:
            found += f" (and {len(straddling) - 1} more tweets)"
        advice = "set straddling: leave_out to keep only those in the last of these splits"
        raise DataError(f"{raw / TABLES}: expected the pictures of a tweet in one split, found {found}; {advice}")
    return pictures, [number for number, picture in enumerate(pictures) if picture.part == last[picture.tweet]]


def read_table(keys: CrisisMmdRaw, raw: Path, part: int) -> list[Picture]:
    """Read the pictures of a table; ``DataError`` naming the first invalid line. Cells are separated by tabs without
    quoting: the official tables contain quotation marks of the tweets."""
    name = _table(PARTS[part])
    path, pictures = raw / name, []
    for number, cells in _lines(path, read_text(path, keys.encoding)):
        label, tweet = cells["label_image"], cells["tweet_id"]
        if label not in CLASSES:
            expected = f"label_image: expected one of {', '.join(CLASSES)}"
            raise DataError(f"{path}: line {number}: {expected}, found '{label[:60]}'")
        if not (tweet.isascii() and tweet.isdigit() and len(tweet) < 19):
            found = f"found '{tweet[:40]}'; spreadsheets round such numbers; fetch the table again"
            raise DataError(f"{path}: line {number}: tweet_id: expected a whole number below 10^18, {found}")
        pictures.append(
            Picture(
                part=part,
                place=f"{name}: line {number}",
                event=cells["event_name"],
                tweet=int(tweet),
                image=cells["image_id"],
                text=LINK.sub("", cells["tweet_text"]).strip(),
                file=cells["image"],
                label=CLASSES.index(label),
            )
        )
    return pictures


def _lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line and its cells by column."""
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    header = lines[0].split("\t")
    lacking = [column for column in COLUMNS if column not in header]
    if lacking:
        found = ", ".join(header)[:200] or "none"
        raise DataError(f"{path}: expected a column {', '.join(lacking)}, found the columns {found}; fetch it again")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if line and len(cells) != len(header):
            expected = f"expected {len(header)} cells between tabs"
            raise DataError(f"{path}: line {number}: {expected}, found {len(cells)}; fetch it again")
        if line:
            yield number, dict(zip(header, cells, strict=True))
