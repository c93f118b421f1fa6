"""The sections of a config beside data, methods and missingness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, model_validator

from fedrecon_core.config.base import Choice, Fusion, Params, require_defaults
from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import METRICS, MODALITIES
from fedrecon_core.types import StrictModel


def _some_sites(value: Any) -> Any:
    """Names of sites, or the word for those that hold every modality."""
    names = isinstance(value, list | tuple) and bool(value) and all(isinstance(name, str) for name in value)
    if value is None or value == "complete" or names:
        return value
    raise ValueError(f"expected a list of names of sites, or complete, found {short_repr(value)}")


TrainingSites = Annotated[Literal["complete"] | tuple[str, ...] | None, BeforeValidator(_some_sites)]


class Sites(StrictModel):
    """How many sites, how many of them train in a round, and how long the server waits for them (seconds).

    ``training`` names the sites of a simulation that train at all, or is ``complete``: those that hold every modality.
    The others keep their held-out samples. What some sites reach without the others is a rival of every federation.
    """

    count: int = Field(default=8, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    training: TrainingSites = None
    min: int | None = Field(default=None, ge=1, description="sites that must be connected before a round (all)")
    quorum: float = Field(default=0.5, gt=0, le=1, description="share of the sampled sites whose reply a round needs")
    timeout: float = Field(default=600.0, gt=0)
    wait: float = Field(default=120.0, gt=0)
    retries: int = Field(default=2, ge=0)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.min is not None and self.min > self.count:
            raise InvalidValueError("min", f"expected at most sites.count ({self.count}), found {self.min}")
        return self


class Updates(StrictModel):
    """Which updates are too large to be taken: more than ``limit`` times the median norm of the sites that hold the
    group, where at least ``least`` do, else more than ``limit`` times the most that a site sent before. Null takes
    all."""

    limit: float | None = Field(default=20.0, gt=1)
    least: int = Field(default=4, ge=3)


class Engine(StrictModel):
    """Where sites run, ``workers`` of them at a time. ``cpus`` and ``gpus`` are what one simulated site asks of Ray;
    ``ray_address`` is a Ray cluster to run them on, which starts as many at a time as it has room for (``workers`` then
    only says how many turns the deadline of a round allows for); without it Ray is started for the run. ``superlink``
    is the connection (a name in Flower's ``config.toml``) over which a deployment is submitted, without it Flower's
    default."""

    name: Literal["inprocess", "ray", "deployment"] = "inprocess"
    workers: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)
    ray_address: str | None = None
    superlink: str | None = None

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.name != "ray":
            require_defaults(self, ("ray_address",), f"with engine {self.name} (it acts in ray alone)")
        return self

    @property
    def simulated(self) -> bool:
        """Whether the server deals out one data set; in a deployment every site brings its own."""
        return self.name != "deployment"


def _metric(name: str) -> str:
    try:
        METRICS.get(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


class Evaluate(StrictModel):
    """Where and how often validation is scored; the best round is the one with the highest ``select`` (a metric).
    ``where`` is ``server``, in a deployment ``sites`` unless the config says otherwise.
    ``fraction`` is the share of the sites that evaluate, where sites do."""

    where: Literal["server", "sites"] = "server"
    every: int = Field(default=1, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    batch: int = Field(default=512, ge=1)
    select: Annotated[str, AfterValidator(_metric)] = "uar"

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.where == "server":
            require_defaults(self, ("fraction",), "with where: server (it is the share of the sites that evaluate)")
        return self


class Phase(StrictModel):
    """One stage of the local round: epochs over the site's data with a fresh optimiser, as in the benchmark."""

    epochs: int = Field(default=1, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    lr_decay: float = Field(default=1.0, gt=0, le=1, description="factor of lr from each round to the next")
    batch: int = Field(default=64, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0, description="gradient-norm clip")

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.optimizer != "sgd":
            require_defaults(self, ("momentum",), f"with optimizer {self.optimizer} (it acts in sgd alone)")
        return self

    def in_round(self, number: int) -> Phase:
        """The stage as round ``number`` (from 1) runs it: with lr * lr_decay^(number - 1)."""
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


def _kinds(value: Any) -> Any:
    """Kind -> its keys with its name, for the kinds that the config leaves out as well."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping kind -> keys, found {short_repr(value)}")
    return {kind: _named(kind, value.get(kind, {})) for kind in (*MODALITIES.names(), *value)}


def _named(kind: Any, keys: Any) -> Any:
    if isinstance(keys, Params):
        return keys
    if not isinstance(keys, Mapping):
        raise InvalidValueError(str(kind), f"expected a mapping of keys, found {short_repr(keys)}")
    return {**keys, "name": kind}


Kind = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(MODALITIES))]
Kinds = Annotated[dict[str, Kind], BeforeValidator(_kinds)]


AUTO = "auto"
"""On where its package is installed, and off in the cells of a sweep."""
DEFAULT_TRACKERS: Mapping[str, Any] = {"tensorboard": AUTO}
_SWITCHES: Mapping[Any, Any] = {None: None, False: None, True: {}, AUTO: AUTO}


def _over_the_default(value: Any) -> dict[str, Any]:
    """Tracker -> its keys, ``auto``, or None where it is off. What is written stands over the default, so that naming
    one tracker turns off no other."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping tracker -> keys, found {short_repr(value)}")
    return {**DEFAULT_TRACKERS, **{str(name): _tracker_keys(str(name), keys) for name, keys in value.items()}}


def _tracker_keys(name: str, keys: Any) -> Any:
    if isinstance(keys, Mapping):
        return dict(keys)
    if keys is None or (isinstance(keys, bool | str) and keys in _SWITCHES):
        return _SWITCHES[keys]
    expected = "expected a mapping of keys, true (its defaults), auto (where it is installed) or null (off)"
    raise InvalidValueError(name, f"{expected}, found {short_repr(keys)}")


Tracking = Annotated[dict[str, Any], BeforeValidator(_over_the_default)]
