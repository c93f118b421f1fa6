"""Missingness: which modalities are absent in a split, at which level, at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fedrecon_core.config.base import require_defaults
from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.types import StrictModel


def _between(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number between 0 and 1, found {value}")
    return value


def _named(value: Any) -> Any:
    """Names that are numbers (classes often are) may stand without quotes."""
    if not isinstance(value, Mapping):
        return value
    odd = [key for key in value if type(key) not in (str, int)]
    if odd:
        raise ValueError(f"expected names, found {short_repr(odd[0])}; put the name in quotes")
    return {str(key): rate for key, rate in value.items()}


_Rate = Annotated[float, AfterValidator(_between)]
Rate = _Rate | dict[str, _Rate]
Rates = Annotated[dict[str, Rate], BeforeValidator(_named)]


class Profile(StrictModel):
    """So many sites that hold just these modalities."""

    sites: int = Field(ge=1)
    modalities: tuple[str, ...] = Field(min_length=1)


class Missing(StrictModel):
    """Which modalities are absent in one split, at which level, at which rate.

    A rate is one number, or modality -> number, where a modality that is left out is never absent. ``rate`` counts for
    all but those that have a rate of their own: ``sites`` maps site names to theirs, ``classes`` names of classes to
    those of their samples (missing not at random). For a sample the rate of its class counts where one is given, else
    that of its site, else ``rate``; each replaces the next as a whole. A sample of several classes has, of each
    modality, the highest of its classes' rates.
    """

    level: Literal["site", "sample", "profile", "coupled", "none"] = "none"
    rate: Rate = 0.0
    sites: Rates = Field(default_factory=dict)
    classes: Rates = Field(default_factory=dict)
    profile: tuple[Profile, ...] = ()

    @model_validator(mode="after")
    def _rates_act(self) -> Self:
        rates = self.rate.values() if isinstance(self.rate, dict) else (self.rate,)
        if any(rates):
            self._needs("site or sample", f"a rate is given ({self.rate})")
        if self.sites:
            self._needs("site or sample", "rates of sites are given")
        if self.classes:
            self._needs("sample", "rates of classes are given")
        return self

    @model_validator(mode="after")
    def _profile_acts(self) -> Self:
        if self.profile:
            self._needs("profile", "a profile is given")
        elif self.level == "profile":
            raise InvalidValueError(
                "profile", "expected a list of {sites: .., modalities: [..]} for level profile, found none"
            )
        return self

    def _needs(self, levels: str, reason: str) -> None:
        if self.level not in levels.split(" or "):
            raise InvalidValueError("level", f"expected {levels}, since {reason}, found '{self.level}'")


class MissingTrain(Missing):
    """Missingness in training; ``pairs`` and ``complete_sites`` belong to the level ``coupled``."""

    pairs: float = Field(default=0.1, ge=0, le=1, description="share of the samples that the complete sites hold")
    complete_sites: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.level != "coupled":
            require_defaults(self, ("pairs", "complete_sites"), f"with level {self.level} (it acts in coupled alone)")
        return self


class MissingHeldOut(Missing):
    """Missingness in validation. Where the sites evaluate and have masks of their own in training (levels site, profile
    and coupled), the levels ``site`` and ``profile`` here mean those same masks; with ``independent`` they mean fresh
    ones, drawn for this split alone, at its own rate or profile."""

    independent: bool = False

    @model_validator(mode="after")
    def _independent_acts(self) -> Self:
        if self.level not in ("site", "profile"):
            require_defaults(self, ("independent",), f"with level {self.level} (it acts in site and profile alone)")
        return self


class MissingTest(MissingHeldOut):
    """Missingness in test; every test sample is scored under ``draws`` independent masks."""

    draws: int = Field(default=1, ge=1)


class Missingness(StrictModel):
    """Missingness of the three splits, and what happens to a sample or site that would keep nothing."""

    empty: Literal["redraw", "skip", "allow"] = "redraw"
    train: MissingTrain = MissingTrain()
    validation: MissingHeldOut = MissingHeldOut()
    test: MissingTest = MissingTest()
