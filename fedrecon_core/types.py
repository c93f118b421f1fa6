"""Types that all packages share: modality, data set, batch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

if TYPE_CHECKING:  # configs and specifications are read by commands that need no PyTorch
    import torch
    from torch import Tensor

ModalityName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Pattern of a site's name, which is part of file names at the site and at the server."""
SITE_NAME_RULE = "letters, digits, '_', '.', '-' (not first), at most 100"
SPLITS = ("train", "validation", "test")
Widths = tuple[Annotated[int, Field(ge=1)], ...]
"""The widths, or channels, of a network's layers from its input on."""


class StrictModel(BaseModel):
    """An immutable model that refuses unknown keys, infinity and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Likelihood(StrictModel):
    """p(x_m given z_m) of a modality.

    ``std`` is the distribution's own scale (Gaussian sigma, Laplace b; unused by ``bernoulli``), ``weight`` a
    multiplier of the log-likelihood.
    """

    name: Literal["gaussian", "laplace", "bernoulli"] = "gaussian"
    std: float = Field(default=1.0, gt=0)
    weight: float = Field(default=1.0, gt=0)


class ModalitySpec(StrictModel):
    """A named input: its kind (a file of ``modalities/``), the shape of one sample and its likelihood.

    ``shape`` is (C, H, W) for images, (D,) for vectors and (T, D) for sequences, where T is the longest length.
    ``scale: standard`` asks for federation-wide z-normalization per feature, from present training values only.
    """

    name: ModalityName
    kind: str
    shape: tuple[int, ...]
    likelihood: Likelihood = Likelihood()
    scale: Literal["none", "standard"] = "none"

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of the quantities that have their own mean: the steps of a (T, D) sequence share theirs."""
        return self.shape[1:] if len(self.shape) == 2 else self.shape


class DatasetSpec(StrictModel):
    """Specification that the whole federation shares: the modalities, in a fixed order, and the classes.

    ``target: multiclass`` means that a sample has exactly one of the classes, ``multilabel`` any number of them.
    """

    name: str
    modalities: tuple[ModalitySpec, ...]
    classes: tuple[str, ...]
    target: Literal["multiclass", "multilabel"] = "multiclass"

    @property
    def names(self) -> tuple[str, ...]:
        """The modality names, in the order of the presence mask's columns."""
        return tuple(modality.name for modality in self.modalities)

    def __getitem__(self, name: str) -> ModalitySpec:
        """The modality called ``name``."""
        return self.modalities[self.names.index(name)]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: sites and server compare it before the first round."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Rows:
    """The values of one modality for those samples of a batch that have it.

    ``values`` [R, *shape]; ``index`` int64 [R], the position in the batch of each row; ``lengths`` int64 [R] for
    modalities of variable length (``values`` is then padded with zeros after each length), else None.
    """

    values: Tensor
    index: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples of a batch: ``inputs[m]`` only where present, ``present`` bool [B, M], ``labels`` int64 [B] (multilabel:
    zeros and ones [B, C]), ``ids`` int64 [B].

    ``sealed`` are the true absent rows for the upper bound ``oracle``, and None for every other recovery.
    """

    inputs: dict[str, Rows]
    present: Tensor
    labels: Tensor
    ids: Tensor
    sealed: dict[str, Rows] | None = None

    @property
    def size(self) -> int:
        """B, the number of samples."""
        return int(self.labels.shape[0])

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.labels.device
