"""The YAML file that describes the arrays of an .npz file: its keys and their validation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import read_yaml
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.types import Likelihood, ModalityName, StrictModel


class NpzModality(StrictModel):
    """A modality. ``array``: numbers [N, *shape]; ``channels``: the positions on its last axis to use (null: all).
    ``present``: bool array [N], whether a sample has the modality; ``lengths``: integers [N], the real steps of padded
    sequences [N, T, D]. Missing rows and padding are not read. ``kind``, ``scale`` and ``likelihood`` are those of
    ``ModalitySpec``."""

    name: ModalityName
    kind: str
    array: str
    channels: tuple[int, ...] | None = Field(default=None, min_length=1)
    present: str | None = None
    lengths: str | None = None
    scale: Literal["none", "standard"] = "none"
    likelihood: Likelihood = Likelihood()


class NpzSplit(StrictModel):
    """A split by ``array`` [N], an integer or string per sample; the lists give the values of each split."""

    array: str
    train: tuple[int | str, ...] = ()
    validation: tuple[int | str, ...] = ()
    test: tuple[int | str, ...] = ()

    @model_validator(mode="after")
    def _check_unique(self) -> Self:
        values = [*self.train, *self.validation, *self.test]
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ValueError(f"expected each value in one of train, validation, test, found {repeated!r} twice")
        return self


class NpzShare(StrictModel):
    """A random split: ``share`` of the groups of the training part, the same groups in every run."""

    share: float = Field(gt=0, lt=1)


class NpzDescription(StrictModel):
    """All keys of the YAML file. ``file``: in the same folder or below it. ``label``: positions in ``classes`` [N], or
    zeros and ones [N, C] (multilabel). ``classes``: a list of names, or the name of an array of strings. ``group`` [N]:
    never straddles two splits (a subject; default: every sample is its own group). ``natural`` [N]: the source of a
    sample, if it is not the group. ``split``: assigns samples to splits; ``test`` and ``validation`` are then drawn
    from the remaining training part."""

    name: str = Field(min_length=1)
    file: str
    modalities: tuple[NpzModality, ...] = Field(min_length=1)
    label: str
    classes: str | tuple[str, ...]
    group: str | None = None
    natural: str | None = None
    split: NpzSplit | None = None
    validation: NpzShare | None = None
    test: NpzShare | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [modality.name for modality in self.modalities]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InvalidValueError("modalities", f"expected unique names, found '{repeated}' twice")
        return self


def read_description(path: Path) -> NpzDescription:
    """Read and validate the YAML file ``path``; ``DataError`` naming an invalid key."""
    try:
        raw = read_yaml(path)
    except ConfigError as error:
        raise DataError(f"data.root: {error}") from None
    try:
        return NpzDescription.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, raw, NpzDescription)}") from None
