"""Sections of a config: sites, engine, evaluation, local training, task model, modality kinds, trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from fedrecon_core.config.base import Choice, Fusion, Params, require_defaults
from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import METRICS, MODALITIES
from fedrecon_core.types import StrictModel


class Sites(StrictModel):
    """Number of sites, number of sites that train in a round, and how long the server waits for them (seconds).

    ``training`` lists the sites of a simulation that train at all, or is ``complete``: those that have every modality.
    The others keep their held-out samples. The score that some sites reach without the others is a baseline for every
    federation.
    """

    count: int = Field(default=8, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    training: Literal["complete"] | tuple[str, ...] | None = None
    min: int | None = Field(default=None, ge=1, description="sites that must be connected before a round (all)")
    quorum: float = Field(default=0.5, gt=0, le=1, description="share of the sampled sites whose reply a round needs")
    timeout: float = Field(default=600.0, gt=0)
    wait: float = Field(default=120.0, gt=0)
    retries: int = Field(default=2, ge=0)

    @field_validator("training", mode="before")
    @classmethod
    def check_training(cls, value: Any) -> Any:
        """Require names of sites, or ``complete``."""
        names = isinstance(value, list | tuple) and bool(value) and all(isinstance(name, str) for name in value)
        if value is None or value == "complete" or names:
            return value
        raise ValueError(f"expected a list of site names, or complete, found {short_repr(value)}")

    @model_validator(mode="after")
    def check_min(self) -> Self:
        """Require no more connected sites than there are."""
        if self.min is not None and self.min > self.count:
            raise InvalidValueError("min", f"expected at most sites.count ({self.count}), found {self.min}")
        return self


class Updates(StrictModel):
    """Limit above which updates are refused as too large.

    The limit is ``limit`` times the median norm over the sites that sent the group, if there are at least ``least`` of
    them, else ``limit`` times the largest norm so far. Null refuses none.
    """

    limit: float | None = Field(default=20.0, gt=1)
    least: int = Field(default=4, ge=3)


class Engine(StrictModel):
    """Where sites run; ``workers`` of them run at a time.

    ``cpus`` and ``gpus`` are what one simulated site requests from Ray. ``ray_address`` is an existing Ray cluster,
    which runs as many sites at a time as its resources allow; ``workers`` is then only used for the deadline of a
    round. Without it Ray is started for the run. ``superlink`` is the connection over which a deployment is submitted
    (a name in Flower's ``config.toml``; default: Flower's).
    """

    name: Literal["inprocess", "ray", "deployment"] = "inprocess"
    workers: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)
    ray_address: str | None = None
    superlink: str | None = None

    @model_validator(mode="after")
    def check_ray_address(self) -> Self:
        """Allow ``ray_address`` with Ray only."""
        if self.name != "ray":
            require_defaults(self, ("ray_address",), f"with engine {self.name} (it applies to ray only)")
        return self

    @property
    def simulated(self) -> bool:
        """Whether the server splits one data set among simulated sites; in a deployment every site has its own."""
        return self.name != "deployment"


class Evaluate(StrictModel):
    """Place and frequency of validation. The best round is the one with the highest metric ``select``.

    The default of ``where`` is ``server``, or ``sites`` in a deployment. ``fraction`` is the share of the sites that
    evaluate, if sites do.
    """

    where: Literal["server", "sites"] = "server"
    every: int = Field(default=1, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    batch: int = Field(default=512, ge=1)
    select: str = "uar"

    @field_validator("select")
    @classmethod
    def check_metric(cls, name: str) -> str:
        """Require a registered metric."""
        try:
            METRICS.get(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def check_fraction(self) -> Self:
        """Allow ``fraction`` only where sites evaluate."""
        if self.where == "server":
            require_defaults(self, ("fraction",), "with where: server (it is the share of the sites that evaluate)")
        return self


class Phase(StrictModel):
    """Training of one stage: epochs over the site's data with a new optimizer, as in the benchmark."""

    epochs: int = Field(default=1, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    lr_decay: float = Field(default=1.0, gt=0, le=1, description="factor of lr from each round to the next")
    batch: int = Field(default=64, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0, description="gradient-norm clip")

    @model_validator(mode="after")
    def check_momentum(self) -> Self:
        """Allow ``momentum`` with SGD only."""
        if self.optimizer != "sgd":
            require_defaults(self, ("momentum",), f"with optimizer {self.optimizer} (it applies to sgd only)")
        return self

    def in_round(self, number: int) -> Phase:
        """The values for round ``number`` (from 1): the learning rate is lr * lr_decay^(number - 1)."""
        if self.lr_decay == 1.0:
            return self
        return self.model_copy(update={"lr": self.lr * self.lr_decay ** (number - 1)})


class Local(StrictModel):
    """The three stages of Algorithm 1: L1, L2, L3 are their ``epochs``."""

    generator: Phase = Phase()
    mapping: Phase = Phase()
    task: Phase = Phase()


class Task(StrictModel):
    """The task model: width of a token, fusion, classifier."""

    width: int = Field(default=64, ge=1)
    hidden: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    fusion: Fusion = Field(default="attention", validate_default=True)


def complete_kinds(value: Any) -> Any:
    """Kind -> its keys with its name, including the kinds that the config leaves out."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping kind -> keys, found {short_repr(value)}")
    kinds: dict[Any, Any] = {}
    for kind in (*MODALITIES.names(), *value):
        keys = value.get(kind, {})
        if not isinstance(keys, Mapping | Params):
            raise InvalidValueError(str(kind), f"expected a mapping of keys, found {short_repr(keys)}")
        kinds[kind] = keys if isinstance(keys, Params) else {**keys, "name": kind}
    return kinds


Kind = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(MODALITIES))]
Kinds = Annotated[dict[str, Kind], BeforeValidator(complete_kinds)]

AUTO = "auto"
"""Value of a tracker that is on if its package is installed, but off in the trials of a sweep."""
DEFAULT_TRACKERS: Mapping[str, Any] = {"tensorboard": AUTO}
SWITCHES: Mapping[Any, Any] = {None: None, False: None, True: {}, AUTO: AUTO}
"""A tracker's value in a config, if it is not a mapping -> its value in the resolved config."""


def complete_trackers(value: Any) -> dict[str, Any]:
    """Tracker -> its keys, ``auto``, or None if it is off; trackers that are not named keep their default.

    The keys themselves are checked by the trackers: the core passes them on unread.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping tracker -> keys, found {short_repr(value)}")
    trackers = dict(DEFAULT_TRACKERS)
    for name, keys in value.items():
        if isinstance(keys, Mapping):
            trackers[str(name)] = dict(keys)
        elif keys is None or (isinstance(keys, bool | str) and keys in SWITCHES):
            trackers[str(name)] = SWITCHES[keys]
        else:
            expected = "expected a mapping of keys, true (its defaults), auto (where it is installed) or null (off)"
            raise InvalidValueError(str(name), f"{expected}, found {short_repr(keys)}")
    return trackers


Tracking = Annotated[dict[str, Any], BeforeValidator(complete_trackers)]
