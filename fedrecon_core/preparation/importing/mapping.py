"""The mapping of ``fedrecon data import``: what the columns of a table mean."""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, StringConstraints, ValidationError, model_validator

from fedrecon_core.config import Feature
from fedrecon_core.config.errors import InvalidValueError, explain, short_repr
from fedrecon_core.config.loading import read_yaml
from fedrecon_core.errors import ConfigError
from fedrecon_core.types import SPLITS, Likelihood, ModalityName, StrictModel

COLUMN = re.compile(r"\{([^{}]+)\}")
"""The name of a column in the path of a file."""
Text = Annotated[str, StringConstraints(min_length=1)]


class Modality(StrictModel):
    """Keys of every modality; ``None`` stands for the default of the feature (of ``ModalitySpec`` for a vector)."""

    scale: Literal["none", "standard"] | None = None
    likelihood: Likelihood | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table that are used."""
        raise NotImplementedError

    @property
    def given(self) -> dict[str, Any]:
        """The keys of the modality's specification that the mapping sets."""
        given = {"scale": self.scale, "likelihood": self.likelihood}
        return {key: value for key, value in given.items() if value is not None}


class Vector(Modality):
    """Numbers from ``columns``. A row with an empty cell in any of them lacks the modality."""

    columns: tuple[Text, ...] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns


class Files(Modality):
    """A file per row: ``files`` is its path with columns in braces (``images/{image}``). A row with an empty cell in
    one of them lacks the modality; with ``missing: allow`` so does a row whose file does not exist."""

    files: Text
    feature: Feature
    missing: Literal["refuse", "allow"] = "refuse"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(COLUMN.findall(self.files))


class Words(Modality):
    """The column ``text``. A row with an empty cell lacks the modality."""

    text: Text
    feature: Feature

    @property
    def names(self) -> tuple[str, ...]:
        return (self.text,)


class Label(StrictModel):
    """The columns with the classes."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table that are used."""
        raise NotImplementedError


class OneLabel(Label):
    """``column`` contains the class or, with a ``separator``, any number of classes."""

    column: Text
    separator: Text | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.column,)


class LabelColumns(Label):
    """A column of zeros and ones per class."""

    columns: tuple[Text, ...] = Field(min_length=1)

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns


@dataclass(frozen=True)
class _ByKey:
    """A validator that selects the model by the one key that no other model has. A plain string is used as the value of
    the key ``short``."""

    models: MappingType[str, type[StrictModel]]
    short: str | None = None

    def __call__(self, value: Any) -> Any:
        return value if isinstance(value, StrictModel) else self.params(value).model_validate(self._keys(value))

    def params(self, value: Any) -> type[StrictModel]:
        """The model for ``value``; error messages use it, too."""
        keys = self._keys(value)
        found = [key for key in self.models if isinstance(keys, MappingType) and key in keys]
        if len(found) != 1:
            raise ValueError(
                f"expected a mapping with one of the keys {', '.join(self.models)}, found {short_repr(value)}"
            )
        return self.models[found[0]]

    def _keys(self, value: Any) -> Any:
        return {self.short: value} if self.short and isinstance(value, str) else value


_Modality = Annotated[
    SerializeAsAny[Modality], BeforeValidator(_ByKey({"columns": Vector, "files": Files, "text": Words}))
]
_Label = Annotated[
    SerializeAsAny[Label], BeforeValidator(_ByKey({"column": OneLabel, "columns": LabelColumns}, "column"))
]
_Names = Annotated[tuple[Text, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]


class SplitColumn(StrictModel):
    """``column`` contains each row's split; ``train``, ``validation`` and ``test`` list its values for each."""

    column: Text
    train: _Names = ("train",)
    validation: _Names = ("validation",)
    test: _Names = ("test",)


class Shares(StrictModel):
    """The probability of each split for a group of samples. The split follows from the group's text, ``seed`` and the
    data set's name, so that it is the same in every table. The shares are reached on average over groups."""

    train: float = Field(default=0.7, gt=0, le=1)
    validation: float = Field(default=0.15, ge=0, le=1)
    test: float = Field(default=0.15, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"expected train, validation and test to sum to 1, found {total:g}")
        return self


class Mapping(StrictModel):
    """The whole mapping. Names in it are columns of the table unless noted otherwise.

    ``id``: texts are numbered in sorted order; without it, samples are numbered by row. ``classes``: the class names in
    order (default: the label's values, sorted). ``group``: the unit that is in one split only (default: every row).
    ``natural``: the source of a sample, for a natural partition. ``site``: one site folder per value. ``empty``: texts
    that stand for an empty cell. ``folder``: the folder of the files, relative to the table's folder.
    """

    name: Text
    label: _Label
    modalities: dict[ModalityName, _Modality] = Field(min_length=1)
    id: Text | None = None
    classes: tuple[Text, ...] | None = Field(default=None, min_length=2)
    group: Text | None = None
    natural: Text | None = None
    split: SplitColumn | None = None
    shares: Shares | None = None
    site: Text | None = None
    encoding: Text = "utf-8"
    separator: Annotated[str, StringConstraints(min_length=1, max_length=1)] = ","
    decimal: Literal[".", ","] = "."
    empty: tuple[str, ...] = ()
    folder: str = "."

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the table that the mapping names, without repeats."""
        single = (self.id, self.group, self.natural, self.site, self.split.column if self.split else None)
        taken = (name for keys in self.modalities.values() for name in keys.names)
        return tuple(dict.fromkeys(name for name in (*single, *self.label.names, *taken) if name is not None))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.split is None) == (self.shares is None):
            found = "neither" if self.split is None else "both"
            raise InvalidValueError("split", f"expected split (a column) or shares (to draw the splits), found {found}")
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise InvalidValueError("classes", f"expected each class once, found {short_repr(list(self.classes))}")
        names = [name for split in SPLITS for name in (getattr(self.split, split) if self.split else ())]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidValueError(
                "split", f"expected each of the column's values under one split, found '{twice[0]}' twice"
            )
        columns = self.label.columns if isinstance(self.label, LabelColumns) else None
        if columns and len(set(columns)) < len(columns):
            raise InvalidValueError("label.columns", f"expected each column once, found {short_repr(list(columns))}")
        if columns and self.classes and len(columns) != len(self.classes):
            found = f"found {len(self.classes)}"
            raise InvalidValueError("classes", f"expected a name for each of the {len(columns)} label columns, {found}")
        return self


def read_mapping(path: Path) -> Mapping:
    """Read the mapping in the YAML file ``path``; ``ConfigError`` naming the key at fault. The features must be
    registered."""
    raw = read_yaml(path)
    try:
        return Mapping.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, raw, Mapping).removeprefix('config: ')}") from None
