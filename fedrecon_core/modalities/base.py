"""Base of every modality kind: networks from its arrays to a latent, back, and to tokens of the task model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from fedrecon_core.config import Params
from fedrecon_core.config.errors import InvalidValueError, explain, short_repr
from fedrecon_core.types import ModalitySpec

LOG_VARIANCE_RANGE = (-10.0, 5.0)
"""Log-variances are clamped to this range: outside it, likelihoods overflow in float32."""

KIND_KEYS = {"name": "the data determine the kind of a modality", "only": "these are one modality's keys already"}
"""Keys that cannot be set for one modality -> the reason."""


class KindParams(Params):
    """Keys of a modality kind. ``only``: modality of the kind -> the keys that differ for it."""

    only: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def of(self, modality: str) -> Self:
        """The keys for ``modality``."""
        if modality not in self.only:
            return self
        keys = {key: getattr(self, key) for key in self.model_fields_set - {"only"}}
        return type(self).model_validate({**keys, **self.only[modality]})

    @model_validator(mode="after")
    def check_only(self) -> Self:
        """Validate the keys of each modality in ``only``."""
        for modality, own in self.only.items():
            for key in sorted(KIND_KEYS.keys() & own):
                expected = f"expected no {key} ({KIND_KEYS[key]})"
                raise InvalidValueError(f"only.{modality}.{key}", f"{expected}, found {short_repr(own[key])}")
            try:
                self.of(modality)
            except ValidationError as error:
                key, _, fault = explain(error, own, type(self)).partition(": ")
                raise InvalidValueError(f"only.{modality}.{key}", fault) from None
        return self


class ModalityKind(ABC):
    """Base of a registered kind. The networks take ``(values, lengths)``; ``lengths`` is None for fixed shapes."""

    Params: ClassVar[type[KindParams]] = KindParams
    axes: ClassVar[tuple[str, ...]] = ()
    """Names of the axes of one sample's shape, if the kind needs a fixed number of them."""

    def __init__(self, params: Any, spec: ModalitySpec) -> None:
        """``params`` are the kind's keys of the config, ``spec`` the modality that the networks are built for."""
        self.params = params
        self.spec = spec

    @abstractmethod
    def encoder(self, latent: int) -> nn.Module:
        """(values [R, *shape], lengths) -> (mean [R, Z], log-variance [R, Z]) of q(z given x)."""

    @abstractmethod
    def decoder(self, latent: int) -> nn.Module:
        """z [R, Z] -> location [R, *shape] of p(x given z)."""

    @abstractmethod
    def extractor(self, width: int) -> nn.Module:
        """(values [R, *shape], lengths) -> (tokens [R, T', width], mask bool [R, T'] or None if all are real)."""


class GaussianHead(nn.Module):
    """A linear layer to (mean, log-variance), the latter clamped to ``LOG_VARIANCE_RANGE``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[R, inputs] -> two tensors [R, outputs]."""
        mean, log_variance = self.linear(hidden).split(self.outputs, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


def length_mask(lengths: Tensor, longest: int) -> Tensor:
    """bool [R, longest], true inside each sequence."""
    return torch.arange(longest, device=lengths.device)[None, :] < lengths[:, None]
