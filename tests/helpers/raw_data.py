"""Raw data sets for tests: one with official files and a feature, and one with generated rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.files import read_text
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import file_item, rows_through, rows_version
from fedrecon_core.preparation.features.base import Feature, RawItem
from fedrecon_core.preparation.raw_dataset import RawDataset
from fedrecon_core.registry import DATASETS, FEATURES
from fedrecon_core.types import DatasetSpec, ModalitySpec, StrictModel

NAME, FEATURE = "toy_raw", "toy_letters"


class LettersParams(Params):
    """``factor`` multiplies every value; ``longest`` is the most letters that are read."""

    name: str = FEATURE
    factor: float = 1.0
    longest: int = Field(default=8, ge=1)


class Letters(Feature):
    """A text as the code points of its letters, [T, 1]."""

    Params = LettersParams
    medium: ClassVar[Literal["text"]] = "text"
    costly: ClassVar[bool] = True
    read: ClassVar[list[str]] = []
    """The origins of the contents that were read, for tests of the cache."""

    @property
    def ragged(self) -> bool:
        return True

    def modality(self, name: str) -> ModalitySpec:
        return ModalitySpec(name=name, kind="sequence", shape=(self.params.longest, 1))

    def extract(self, contents: Sequence[RawItem]) -> list[np.ndarray]:
        return [self._row(content) for content in contents]

    def _row(self, content: RawItem) -> np.ndarray:
        self.read.append(content.origin)
        text = content.data.decode()
        if not text.strip():
            raise DataError(f"{content.origin}: expected letters, found none")
        letters = [ord(letter) for letter in text[: self.params.longest]]
        return self.params.factor * np.array(letters, dtype=np.float32)[:, None]


class ToyRaw(StrictModel):
    """``layout``: of the files. ``factor``: of the letters."""

    layout: Literal["flat", "deep"] = "flat"
    factor: float = 1.0


class RawSet(PreparedLoader):
    """Lines of a table, and a text each. The second sentence is not listed."""

    name = NAME
    Raw = ToyRaw
    modalities = ("words",)

    @classmethod
    def expected_files(cls, keys: Any, raw: Path) -> Sequence[ExpectedFile]:
        folder = "texts" if keys.layout == "flat" else "deep/texts"
        return [
            ExpectedFile("table.txt", "a label per line"),
            ExpectedFile(f"{folder}/*.txt", "a text per line", least=4),
        ]

    @classmethod
    def read_raw(cls, keys: Any, raw: Path, cache: Path) -> RawDataset:
        labels = np.array([int(line) for line in read_text(raw / "table.txt").split()], dtype=np.int64)
        paths = sorted((raw / ("texts" if keys.layout == "flat" else "deep/texts")).glob("*.txt"))
        feature = Letters(LettersParams(factor=keys.factor))
        count = len(labels)
        samples = Samples(
            np.arange(count), labels, np.arange(count) % 3, np.arange(count), np.ones((count, 1), dtype=bool)
        )
        spec = DatasetSpec(name=cls.name, classes=("a", "b"), modalities=(feature.modality("words"),))
        read = rows_through(feature, cache, lambda sample: file_item(paths[sample]))
        names = [path.stem for path in paths]
        return RawDataset(spec, samples, {"words": read}, frozenset({"words"}), names, rows_version([feature], []))


@contextmanager
def registered() -> Iterator[None]:
    """Register the data set and its feature inside the block."""
    DATASETS.register(NAME)(RawSet)
    FEATURES.register(FEATURE)(Letters)
    Letters.read.clear()
    try:
        yield
    finally:
        DATASETS.forget(NAME)
        FEATURES.forget(FEATURE)


def write_raw(folder: Path, count: int = 12) -> Path:
    """Write the official files of ``count`` samples."""
    (folder / "texts").mkdir(parents=True)
    (folder / "table.txt").write_text("\n".join(str(n % 2) for n in range(count)))
    for number in range(count):
        (folder / "texts" / f"{number:03d}.txt").write_text("abcdefgh"[: 1 + number % 8])
    return folder


# --- generated rows ---------------------------------------------------------------------------------------------------

SPEC = DatasetSpec(
    name="made_up",
    classes=("no", "yes"),
    modalities=(
        ModalitySpec(name="numbers", kind="vector", shape=(3,)),
        ModalitySpec(name="steps", kind="sequence", shape=(6, 2)),
    ),
)


def made_up(count: int = 2500, seed: int = 0) -> RawDataset:
    """``count`` samples whose rows contain the number of their sample; ``seed`` decides which rows are missing."""
    present = np.random.default_rng(seed).random((count, 2)) < 0.8
    samples = Samples(
        ids=np.arange(count) + 7,
        labels=np.arange(count) % 2,
        split=np.arange(count) % 3,
        cluster_ids=np.arange(count),
        present=present,
    )

    def numbers(chosen: np.ndarray) -> list[np.ndarray]:
        return [np.full(3, sample, dtype=np.float32) for sample in chosen]

    def steps(chosen: np.ndarray) -> list[np.ndarray]:
        return [np.full((1 + sample % 6, 2), sample, dtype=np.float32) for sample in chosen]

    return RawDataset(SPEC, samples, {"numbers": numbers, "steps": steps}, frozenset({"steps"}))


def reading(raw_data: RawDataset, modality: str, read: Callable) -> RawDataset:
    """The raw data with another reader: ``read(chosen, rows)`` receives the rows of the original one."""
    first = raw_data.rows[modality]
    return replace(raw_data, rows={**raw_data.rows, modality: lambda chosen: read(chosen, first(chosen))})


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below ``folder``, except the stamp, which contains times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "stamp.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
