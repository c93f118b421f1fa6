"""How a YAML file describes the arrays of an .npz file: its keys, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import read_yaml
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.types import Likelihood, ModalityName, StrictModel


class NpzModality(StrictModel):
    """``array`` [N, *shape] of numbers; ``channels`` are the positions on its last axis that are taken (null: all).
    ``present``, a bool array [N], says which samples have the modality at all; ``lengths``, whole numbers [N], how many
    steps of a padded sequence [N, T, D] are real: what is absent or padding is not read, whatever it holds. ``kind``,
    ``scale`` and ``likelihood`` are those of ``ModalitySpec``."""

    name: ModalityName
    kind: str
    array: str
    channels: tuple[int, ...] | None = Field(default=None, min_length=1)
    present: str | None = None
    lengths: str | None = None
    scale: Literal["none", "standard"] = "none"
    likelihood: Likelihood = Likelihood()


class NpzSplit(StrictModel):
    """``array`` [N] holds a whole number or a text for each sample; the lists say which values mean which split."""

    array: str
    train: tuple[int | str, ...] = ()
    validation: tuple[int | str, ...] = ()
    test: tuple[int | str, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Self:
        values = [*self.train, *self.validation, *self.test]
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise ValueError(f"expected each value in one of train, validation, test, found {repeated!r} twice")
        return self


class NpzShare(StrictModel):
    """A split that is drawn: ``share`` of the groups of the training part, whole ones, the same in every run."""

    share: float = Field(gt=0, lt=1)


class NpzDescription(StrictModel):
    """All keys of the YAML. ``file`` lies beside it or below; ``label`` [N] holds positions in ``classes``, or [N, C]
    zeros and ones (multilabel); ``classes`` lists the names or names an array of texts. ``group`` [N] is what never
    straddles two splits (a subject; default: every sample by itself), ``natural`` [N] whom a sample comes from, where
    that is another unit. ``split`` says which samples are which; ``test`` and ``validation`` are then drawn from what
    is left for training."""

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
    def _distinct(self) -> Self:
        names = [modality.name for modality in self.modalities]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InvalidValueError("modalities", f"expected a name for each, found '{repeated}' twice")
        return self


def read_description(path: Path) -> NpzDescription:
    """The YAML file ``path``, checked; ``DataError`` naming the key at fault."""
    try:
        raw = read_yaml(path)
    except ConfigError as error:
        raise DataError(f"data.root: {error}") from None
    try:
        return NpzDescription.model_validate(raw)
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, raw, NpzDescription)}") from None
