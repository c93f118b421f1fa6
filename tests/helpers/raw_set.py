"""A data set with an official layout, small enough to be broken in a test; it is registered only while it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    """A text as the numbers of its letters, [T, 1]."""

    Params = LettersParams
    medium: ClassVar[Literal["text"]] = "text"
    costly: ClassVar[bool] = True
    read: ClassVar[list[str]] = []
    """The contents that were read, for tests of the cache."""

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
    """The data set and its feature are known meanwhile."""
    DATASETS.register(NAME)(RawSet)
    FEATURES.register(FEATURE)(Letters)
    Letters.read.clear()
    try:
        yield
    finally:
        DATASETS.forget(NAME)
        FEATURES.forget(FEATURE)


def write_raw(folder: Path, count: int = 12) -> Path:
    """The official files of so many samples."""
    (folder / "texts").mkdir(parents=True)
    (folder / "table.txt").write_text("\n".join(str(n % 2) for n in range(count)))
    for number in range(count):
        (folder / "texts" / f"{number:03d}.txt").write_text("abcdefgh"[: 1 + number % 8])
    return folder
