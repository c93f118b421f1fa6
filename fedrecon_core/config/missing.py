"""Missingness: which modalities are absent in a split, at which level, at which rate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedrecon_core.config.base import untouched
from fedrecon_core.faults import MisfitError
from fedrecon_core.types import Frozen


def _between(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number between 0 and 1, found {value}")
    return value


_Rate = Annotated[float, AfterValidator(_between)]
Rate = _Rate | dict[str, _Rate]


class Profile(Frozen):
    """So many sites that hold just these modalities."""

    sites: int = Field(ge=1)
    modalities: tuple[str, ...] = Field(min_length=1)


class Missing(Frozen):
    """Which modalities are absent in one split, at which level, at which rate (one number, or modality -> number)."""

    level: Literal["site", "sample", "profile", "coupled", "none"] = "none"
    rate: Rate = 0.0
    profile: tuple[Profile, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        rates = self.rate.values() if isinstance(self.rate, dict) else (self.rate,)
        if any(rates) and self.level not in ("site", "sample"):
            raise MisfitError(
                "level", f"expected site or sample, since a rate is given ({self.rate}), found '{self.level}'"
            )
        if self.level == "profile" and not self.profile:
            raise MisfitError(
                "profile", "expected a list of {sites: .., modalities: [..]} for level profile, found none"
            )
        if self.profile and self.level != "profile":
            raise MisfitError("level", f"expected profile, since a profile is given, found '{self.level}'")
        return self


class MissingTrain(Missing):
    """Missingness in training; ``pairs`` and ``complete_sites`` belong to the level ``coupled``."""

    pairs: float = Field(default=0.1, ge=0, le=1, description="share of the samples that the complete sites hold")
    complete_sites: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.level != "coupled":
            untouched(self, ("pairs", "complete_sites"), f"with level {self.level} (it acts in coupled alone)")
        return self


class MissingTest(Missing):
    """Missingness in test; every test sample is scored under ``draws`` independent masks."""

    draws: int = Field(default=1, ge=1)


class Missingness(Frozen):
    """Missingness of the three splits, and what happens to a sample or site that would keep nothing."""

    empty: Literal["redraw", "skip", "allow"] = "redraw"
    train: MissingTrain = MissingTrain()
    validation: Missing = Missing()
    test: MissingTest = MissingTest()
