"""Missingness: which modalities are absent in a split, at which level, at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fedrecon_core.config.base import require_defaults
from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.types import StrictModel


def check_rate(value: float) -> float:
    """Require a number between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number between 0 and 1, found {value}")
    return value


def read_names(value: Any) -> Any:
    """Accept names that are numbers, as classes often are, without quotes."""
    if not isinstance(value, Mapping):
        return value
    odd = [key for key in value if type(key) not in (str, int)]
    if odd:
        raise ValueError(f"expected names, found {short_repr(odd[0])}; put the name in quotes")
    return {str(key): rate for key, rate in value.items()}


OneRate = Annotated[float, AfterValidator(check_rate)]
Rate = OneRate | dict[str, OneRate]
Rates = Annotated[dict[str, Rate], BeforeValidator(read_names)]


class Profile(StrictModel):
    """A number of sites that have exactly these modalities."""

    sites: int = Field(ge=1)
    modalities: tuple[str, ...] = Field(min_length=1)


class Missing(StrictModel):
    """Which modalities are absent in one split, at which level, at which rate.

    A rate is one number, or a mapping modality -> number; a modality that is left out is never absent. ``sites`` maps
    names of sites to rates, ``classes`` names of classes to rates of their samples (missing not at random). A sample
    has the rate of its class if there is one, else that of its site, else ``rate``; each replaces the next completely.
    A sample of several classes has, for each modality, the highest of its classes' rates.
    """

    level: Literal["site", "sample", "profile", "coupled", "none"] = "none"
    rate: Rate = 0.0
    sites: Rates = Field(default_factory=dict)
    classes: Rates = Field(default_factory=dict)
    profile: tuple[Profile, ...] = ()

    @model_validator(mode="after")
    def check_level(self) -> Self:
        """Require a level at which the given rates and profiles have an effect."""
        rates = self.rate.values() if isinstance(self.rate, dict) else (self.rate,)
        needs = (
            (any(rates), ("site", "sample"), f"a rate is given ({self.rate})"),
            (self.sites, ("site", "sample"), "rates of sites are given"),
            (self.classes, ("sample",), "rates of classes are given"),
            (self.profile, ("profile",), "a profile is given"),
        )
        for given, levels, reason in needs:
            if given and self.level not in levels:
                raise InvalidValueError(
                    "level", f"expected {' or '.join(levels)}, since {reason}, found '{self.level}'"
                )
        if self.level == "profile" and not self.profile:
            expected = "expected a list of {sites: .., modalities: [..]} for level profile"
            raise InvalidValueError("profile", f"{expected}, found none")
        return self


class MissingTrain(Missing):
    """Missingness in training; ``pairs`` and ``complete_sites`` belong to the level ``coupled``."""

    pairs: float = Field(default=0.1, ge=0, le=1, description="share of the samples at the complete sites")
    complete_sites: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def check_coupled_keys(self) -> Self:
        """Allow keys of the level ``coupled`` at that level only."""
        if self.level != "coupled":
            require_defaults(self, ("pairs", "complete_sites"), f"with level {self.level} (it applies to coupled only)")
        return self


class MissingHeldOut(Missing):
    """Missingness in validation.

    Where the sites evaluate and whole sites lack modalities in training (levels site, profile and coupled), the levels
    ``site`` and ``profile`` stand for the same masks as in training. With ``independent`` new masks are drawn for this
    split, at its own rate or profile.
    """

    independent: bool = False

    @model_validator(mode="after")
    def check_independent(self) -> Self:
        """Allow ``independent`` only at levels of whole sites."""
        if self.level not in ("site", "profile"):
            require_defaults(self, ("independent",), f"with level {self.level} (it applies to site and profile only)")
        return self


class MissingTest(MissingHeldOut):
    """Missingness in test; every test sample is scored under ``draws`` independent masks."""

    draws: int = Field(default=1, ge=1)


class Missingness(StrictModel):
    """Missingness of the three splits. ``empty`` selects how samples and sites without any modality are treated."""

    empty: Literal["redraw", "skip", "allow"] = "redraw"
    train: MissingTrain = MissingTrain()
    validation: MissingHeldOut = MissingHeldOut()
    test: MissingTest = MissingTest()
