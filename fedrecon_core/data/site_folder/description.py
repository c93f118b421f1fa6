"""``dataset.yaml`` of a site folder: its content, a reader for it, and the names of the other files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import StrictLoader, load
from fedrecon_core.data.site_folder.files import printable, read_bytes, short_line
from fedrecon_core.errors import DataError
from fedrecon_core.types import DatasetSpec, StrictModel

FORMAT = 1
DESCRIPTION, SAMPLES, ARRAYS = "dataset.yaml", "samples.parquet", "arrays"
LONGEST = 1 << 20
"""Largest size of ``dataset.yaml`` in bytes."""
MOST_NODES = 50_000
"""Largest number of values in ``dataset.yaml``; reading so many takes about three seconds."""
LARGEST_ROW = 1 << 31
"""Largest number of values in one row of a modality."""


def array_file(modality: str) -> str:
    """The file with the rows of a modality, relative to the folder."""
    return f"arrays/{modality}.npy"


def offsets_file(modality: str) -> str:
    """The file with the offsets of sequences of different lengths, relative to the folder."""
    return f"arrays/{modality}.offsets.npy"


def file_names(spec: DatasetSpec) -> list[str]:
    """The data files that a folder may contain, relative to it."""
    return [SAMPLES, *(of(name) for name in spec.names for of in (array_file, offsets_file))]


Line = Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line of text."""


class FileRecord(StrictModel):
    """Size and SHA-256 (hex) of one file."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Description(DatasetSpec):
    """Content of ``dataset.yaml``: the specification, and the entries that ``fedrecon data seal`` adds.

    ``spec_sha256`` is ``DatasetSpec.digest`` of the sealed specification, by which a check detects edits. ``draws`` is
    how often a test sample may be in the table: ``fedrecon data split`` writes it once per draw of masks. ``faults`` as
    in ``Dataset``; if there are any, a group may be in several splits.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    draws: int = Field(default=1, ge=1)
    faults: tuple[Line, ...] = ()
    spec_sha256: str | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def spec(self) -> DatasetSpec:
        """The specification, which is the same at all sites."""
        return DatasetSpec(name=self.name, modalities=self.modalities, classes=self.classes, target=self.target)

    @model_validator(mode="after")
    def _is_sound(self) -> Description:
        for key, values in (("modalities", self.names), ("classes", self.classes)):
            if not values:
                raise InvalidValueError(key, "expected at least one, found none")
            repeated = sorted({name for name in values if values.count(name) > 1})
            if repeated:
                raise InvalidValueError(
                    key, f"expected unique names, found {short_line(repr(repeated[0]))} several times"
                )
        for index, modality in enumerate(self.modalities):
            if not modality.shape or min(modality.shape) < 1 or math.prod(modality.shape) > LARGEST_ROW:
                found = short_line(str(list(modality.shape)))
                fault = f"expected sizes of 1 or more, at most {LARGEST_ROW} numbers in all, found {found}"
                raise InvalidValueError(f"modalities.{index}.shape", fault)
        return self


class _Loader(StrictLoader):
    """Refuses aliases, because a few of them can expand to terabytes, and more than ``MOST_NODES`` values."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.nodes += 1
        problem = f"expected at most {MOST_NODES} values" if self.nodes > MOST_NODES else None
        if self.check_event(yaml.AliasEvent):
            problem = "expected no alias (*name), write the values out"
        if problem:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        return super().compose_node(parent, index)


def read_description(folder: Path) -> Description:
    """Read and validate ``dataset.yaml``; ``DataError`` naming the file and the key at fault."""
    path = printable(folder / DESCRIPTION)
    content = read_bytes(folder, DESCRIPTION, LONGEST, "the description of a site folder")
    try:
        raw: Any = load(content.decode("utf-8"), _Loader)
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise DataError(f"{path}: expected text in UTF-8, found {found}; save it as UTF-8") from None
    except yaml.YAMLError as error:
        message = str(error).replace('in "<unicode string>", ', "")
        raise DataError(f"{path} is not valid YAML: {short_line(message)}") from None
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected a mapping (name, modalities, classes, files), found {type(raw).__name__}")
    if not all(isinstance(key, str) for key in raw):
        found = next(key for key in raw if not isinstance(key, str))
        raise DataError(f"{path}: expected keys that are text, found {short_line(repr(found))}")
    try:
        return Description.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{path}: {short_line(explain(error, raw, Description))}") from None
