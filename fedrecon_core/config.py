"""The one config of a run: typed, strict, YAML in and YAML out.

Every registered class carries its own ``Params`` model with its keys and defaults; this module assembles them through
the registries and turns every fault into one line that names the key, what was expected and what was found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from fedrecon_core.errors import ConfigError
from fedrecon_core.faults import MisfitError, explain, shown
from fedrecon_core.registry import (
    DATASETS,
    FEATURES,
    FUSIONS,
    METRICS,
    MODALITIES,
    PARTITIONS,
    RECOVERIES,
    STRATEGIES,
    Registry,
)
from fedrecon_core.types import Frozen


class Params(Frozen):
    """Base of every registered class's own keys; ``name`` chose the class."""

    name: str


@dataclass(frozen=True)
class _Choice:
    """A validator that reads ``name``, finds the class and lets its own ``Params`` check the rest."""

    registry: Registry

    def __call__(self, value: Any) -> Any:
        return value if isinstance(value, Params) else self.params(value).model_validate(self._keys(value))

    def params(self, value: Any) -> type[Params]:
        """The ``Params`` of the class that ``value`` names."""
        name = self._keys(value).get("name")
        if not isinstance(name, str):
            kind = self.registry.kind
            raise ValueError(f"expected a {kind} name or a mapping with the key 'name', found {shown(value)}")
        try:
            cls: Any = self.registry.get(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        chosen: type[Params] = cls.Params
        return chosen

    @staticmethod
    def _keys(value: Any) -> dict[str, Any]:
        return dict(value) if isinstance(value, Mapping) else {"name": value}


Partition = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(PARTITIONS))]


class DataParams(Params):
    """Keys that every data set has; a data set adds its own."""

    root: str | None = Field(default=None, description="folder of the data, relative to the config file")
    partition: Partition = Field(default="iid", validate_default=True)


Data = Annotated[SerializeAsAny[DataParams], BeforeValidator(_Choice(DATASETS))]
Recovery = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(RECOVERIES))]
Strategy = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(STRATEGIES))]
Fusion = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(FUSIONS))]
Feature = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(FEATURES))]


class Sites(Frozen):
    """How many sites, how many of them train in a round, and how long the server waits for them (seconds)."""

    count: int = Field(default=8, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    min: int | None = Field(default=None, ge=1, description="sites that must be connected before a round (all)")
    quorum: float = Field(default=0.5, gt=0, le=1, description="share of the sampled sites whose reply a round needs")
    timeout: float = Field(default=600.0, gt=0)
    wait: float = Field(default=120.0, gt=0)
    retries: int = Field(default=2, ge=0)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.min is not None and self.min > self.count:
            raise MisfitError("min", f"expected at most sites.count ({self.count}), found {self.min}")
        return self


def _untouched(section: Frozen, keys: Sequence[str], where: str) -> None:
    """A key that does nothing ``where`` it stands must keep its default: who sets it expects an effect."""
    for key in keys:
        default, found = type(section).model_fields[key].default, getattr(section, key)
        if found != default:
            raise MisfitError(key, f"expected its default, {default}, {where}, found {found}")


class Updates(Frozen):
    """Which updates are too large to be taken: more than ``limit`` times the median norm of the sites that hold the
    group, where at least ``least`` do, else more than ``limit`` times what the site sent before. Null takes all."""

    limit: float | None = Field(default=20.0, gt=1)
    least: int = Field(default=4, ge=3)


class Engine(Frozen):
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
            _untouched(self, ("ray_address",), f"with engine {self.name} (it acts in ray alone)")
        return self

    @property
    def simulated(self) -> bool:
        """Whether the server deals out one data set; in a deployment every site brings its own."""
        return self.name != "deployment"


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
            _untouched(self, ("pairs", "complete_sites"), f"with level {self.level} (it acts in coupled alone)")
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


def _metric(name: str) -> str:
    try:
        METRICS.get(name)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return name


class Evaluate(Frozen):
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
            _untouched(self, ("fraction",), "with where: server (it is the share of the sites that evaluate)")
        return self


class Phase(Frozen):
    """One stage of the local round: epochs over the site's data with a fresh optimiser, as in the benchmark."""

    epochs: int = Field(default=1, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=64, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0, description="gradient-norm clip")

    @model_validator(mode="after")
    def _acting(self) -> Self:
        if self.optimizer != "sgd":
            _untouched(self, ("momentum",), f"with optimizer {self.optimizer} (it acts in sgd alone)")
        return self


class Local(Frozen):
    """The three stages of Algorithm 1: L1, L2, L3 are their ``epochs``."""

    generator: Phase = Phase()
    mapping: Phase = Phase()
    task: Phase = Phase()


class Task(Frozen):
    """The task model: width of a token, fusion, classifier."""

    width: int = Field(default=64, ge=1)
    hidden: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    fusion: Fusion = Field(default="attention", validate_default=True)


def _kinds(value: Any) -> Any:
    """Kind -> its keys with its name, for the kinds that the config leaves out as well."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping kind -> keys, found {shown(value)}")
    return {kind: _named(kind, value.get(kind, {})) for kind in (*MODALITIES.names(), *value)}


def _named(kind: Any, keys: Any) -> Any:
    if isinstance(keys, Params):
        return keys
    if not isinstance(keys, Mapping):
        raise MisfitError(str(kind), f"expected a mapping of keys, found {shown(keys)}")
    return {**keys, "name": kind}


Kind = Annotated[SerializeAsAny[Params], BeforeValidator(_Choice(MODALITIES))]
Kinds = Annotated[dict[str, Kind], BeforeValidator(_kinds)]


class ModelConfig(Frozen):
    """What a model consists of and how a site trains and scores it: all that a recovery reads. A trained model's
    folder holds it, so that the model needs neither the run nor the packages above the core."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0)
    recovery: Recovery
    modalities: Kinds = Field(default_factory=dict, validate_default=True)
    task: Task = Field(default_factory=Task)
    local: Local = Local()
    evaluate: Evaluate = Evaluate()


class RunConfig(ModelConfig):
    """A whole run: the model, and the federation that trains it. Writing it out and reading it again gives the same
    run."""

    rounds: int = Field(default=10, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Data
    sites: Sites = Sites()
    engine: Engine = Engine()
    missing: Missingness = Missingness()
    strategy: Strategy = Field(default="fedavg", validate_default=True)
    updates: Updates = Updates()

    @model_validator(mode="before")
    @classmethod
    def _scored_where_the_data_are(cls, raw: Any) -> Any:
        """In a deployment the server holds no data, so that the sites evaluate unless the config says otherwise."""
        engine, evaluate = raw.get("engine"), raw.get("evaluate", {})
        deployed = isinstance(engine, Mapping) and engine.get("name") == "deployment"
        if deployed and isinstance(evaluate, Mapping) and "where" not in evaluate:
            return {**raw, "evaluate": {"where": "sites", **evaluate}}
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._nothing_simulated_in_a_deployment()
        profiled = sum(profile.sites for profile in self.missing.train.profile)
        if profiled and profiled != self.sites.count:
            expected = f"expected profiles of {self.sites.count} sites together (sites.count)"
            raise MisfitError("missing.train.profile", f"{expected}, found {profiled}")
        if self.missing.train.level == "coupled" and self.missing.train.complete_sites >= self.sites.count:
            expected = f"expected fewer than sites.count ({self.sites.count})"
            raise MisfitError("missing.train.complete_sites", f"{expected}, found {self.missing.train.complete_sites}")
        for split in ("validation", "test"):
            level = getattr(self.missing, split).level
            if level in ("site", "profile") and self.evaluate.where == "server":
                expected = "expected sample, coupled or none where the server evaluates"
                raise MisfitError(f"missing.{split}.level", f"{expected}, found '{level}'; use evaluate.where: sites")
        return self

    @property
    def has_central_data(self) -> bool:
        """Whether the server opens ``data``: to deal it out in a simulation, or to score on its held-out part."""
        return self.engine.simulated or self.evaluate.where == "server"

    def _nothing_simulated_in_a_deployment(self) -> None:
        """Deployed sites lack what their folders lack; a simulated absence would be silently ignored."""
        for split in ("train", *(() if self.evaluate.where == "server" else ("validation", "test"))):
            level = getattr(self.missing, split).level
            if level != "none" and not self.engine.simulated:
                expected = "expected none in a deployment, where a site lacks what its folder lacks"
                told = "`fedrecon data split` writes simulated sites as folders, with a config for them"
                raise MisfitError(f"missing.{split}.level", f"{expected}, found '{level}'; {told}")

    def to_yaml(self) -> str:
        """The resolved config as YAML, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


Checked = TypeVar("Checked", bound=ModelConfig)


def parse(raw: Mapping[str, Any]) -> RunConfig:
    """A checked config from plain mappings; every fault becomes a ``ConfigError`` of one line."""
    return _checked(raw, RunConfig)


def parse_model(raw: Mapping[str, Any]) -> ModelConfig:
    """As ``parse``, of the sections of a model alone."""
    return _checked(raw, ModelConfig)


def _checked(raw: Mapping[str, Any], model: type[Checked]) -> Checked:
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw, model)) from None
