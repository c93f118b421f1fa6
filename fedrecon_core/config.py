"""The one config of a run: typed, strict, YAML in and YAML out.

Every registered class carries its own ``Params`` model with its keys and defaults; this module assembles them through
the registries and turns every fault into one line that names the key, what was expected and what was found.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import DATASETS, FUSIONS, MODALITIES, PARTITIONS, RECOVERIES, STRATEGIES, Registry
from fedrecon_core.types import Frozen


class Params(Frozen):
    """Base of every registered class's own keys; ``name`` chose the class."""

    name: str


def _choose(registry: Registry) -> Callable[[Any], Any]:
    """A validator that reads ``name``, finds the class and lets its own ``Params`` check the rest."""

    def choose(value: Any) -> Any:
        if isinstance(value, Params):
            return value
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
            raise ValueError(f"expected a {registry.kind} name or a mapping with the key 'name', found {value!r}")
        cls: Any = registry.get(given["name"])
        return cls.Params.model_validate(dict(given))

    return choose


Partition = Annotated[SerializeAsAny[Params], BeforeValidator(_choose(PARTITIONS))]


class DataParams(Params):
    """Keys that every data set has; a data set adds its own."""

    root: str | None = Field(default=None, description="folder of the data, relative to the config file")
    partition: Partition = Field(default="iid", validate_default=True)


Data = Annotated[SerializeAsAny[DataParams], BeforeValidator(_choose(DATASETS))]
Recovery = Annotated[SerializeAsAny[Params], BeforeValidator(_choose(RECOVERIES))]
Strategy = Annotated[SerializeAsAny[Params], BeforeValidator(_choose(STRATEGIES))]
Fusion = Annotated[SerializeAsAny[Params], BeforeValidator(_choose(FUSIONS))]


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
            raise ValueError(f"sites.min must be at most sites.count ({self.count}), found {self.min}")
        return self


class Engine(Frozen):
    """Where sites run. ``cpus`` and ``gpus`` are what one simulated site asks of Ray."""

    name: Literal["inprocess", "ray"] = "inprocess"
    workers: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)


Rate = float | dict[str, float]


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
        rates = self.rate if isinstance(self.rate, dict) else {"": self.rate}
        for modality, rate in rates.items():
            if not 0 <= rate <= 1:
                where = f"rate.{modality}" if modality else "rate"
                raise ValueError(f"{where} must lie between 0 and 1, found {rate}")
        if (self.level == "profile") != bool(self.profile):
            raise ValueError("level: profile and the list profile go together, found only one of them")
        return self


class MissingTrain(Missing):
    """Missingness in training; ``pairs`` and ``complete_sites`` belong to the level ``coupled``."""

    pairs: float = Field(default=0.1, ge=0, le=1, description="share of the samples that the complete sites hold")
    complete_sites: int = Field(default=1, ge=1)


class MissingTest(Missing):
    """Missingness in test; every test sample is scored under ``draws`` independent masks."""

    draws: int = Field(default=1, ge=1)


class Missingness(Frozen):
    """Missingness of the three splits, and what happens to a sample or site that would keep nothing."""

    empty: Literal["redraw", "skip", "allow"] = "redraw"
    train: MissingTrain = MissingTrain()
    validation: Missing = Missing()
    test: MissingTest = MissingTest()


class Evaluate(Frozen):
    """Where and how often validation is scored; the best round is the one with the highest ``select``."""

    where: Literal["server", "sites"] = "server"
    every: int = Field(default=1, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    batch: int = Field(default=512, ge=1)
    select: Literal["accuracy", "uar", "macro_f1"] = "uar"


class Phase(Frozen):
    """One stage of the local round: epochs over the site's data with a fresh optimiser, as in the benchmark."""

    epochs: int = Field(default=1, ge=0)
    lr: float = Field(default=1e-3, gt=0)
    batch: int = Field(default=64, ge=1)
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float | None = Field(default=None, gt=0, description="gradient-norm clip")


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
    """Kind -> that kind's own ``Params``, defaults filled in for the kinds that the config does not name."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping kind -> keys, found {value!r}")
    for kind in value:
        MODALITIES.get(str(kind))
    return {kind: _kind_params(kind, cls, value.get(kind, {})) for kind, cls in MODALITIES.items()}


def _kind_params(kind: str, cls: Any, given: Any) -> Any:
    return given if isinstance(given, Params) else cls.Params.model_validate({"name": kind, **given})


Kinds = Annotated[dict[str, SerializeAsAny[Params]], BeforeValidator(_kinds)]


class RunConfig(Frozen):
    """A whole run. Writing it out and reading it again gives the same run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0)
    rounds: int = Field(default=10, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Data
    sites: Sites = Sites()
    engine: Engine = Engine()
    missing: Missingness = Missingness()
    evaluate: Evaluate = Evaluate()
    modalities: Kinds = Field(default_factory=dict, validate_default=True)
    task: Task = Field(default_factory=Task)
    recovery: Recovery
    strategy: Strategy = Field(default="fedavg", validate_default=True)
    local: Local = Local()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        profiled = sum(profile.sites for profile in self.missing.train.profile)
        if profiled and profiled != self.sites.count:
            raise ValueError(
                f"missing.train.profile must name sites.count ({self.sites.count}) sites, found {profiled}"
            )
        if self.missing.train.level == "coupled" and self.missing.train.complete_sites >= self.sites.count:
            raise ValueError(
                f"missing.train.complete_sites must be below sites.count ({self.sites.count}), "
                f"found {self.missing.train.complete_sites}"
            )
        for split in ("validation", "test"):
            level = getattr(self.missing, split).level
            if level in ("site", "profile") and self.evaluate.where == "server":
                raise ValueError(
                    f"missing.{split}.level: expected sample, coupled or none for a server, found '{level}'"
                    "; use evaluate.where: sites"
                )
        return self

    def to_yaml(self) -> str:
        """The resolved config as YAML, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def parse(raw: Mapping[str, Any]) -> RunConfig:
    """A checked config from plain mappings; every fault becomes a ``ConfigError`` of one line."""
    try:
        return RunConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``; ``ConfigError`` if it is missing, no YAML, or no mapping."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist; give the path of a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys, found {type(raw).__name__}")
    return raw


def override(raw: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """``raw`` with each ``dotted.key=value`` of ``settings`` applied; values are read as YAML."""
    result: dict[str, Any] = _copy(raw)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set expects key=value, found '{setting}'")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {key}: the value must be YAML, found '{text}'") from None
        _assign(result, key.strip().split("."), value)
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _assign(target: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        below = target.get(parent)
        if isinstance(below, str):  # `recovery: mask` is short for `recovery: {name: mask}`
            below = {"name": below}
        target[parent] = below if isinstance(below, dict) else {}
        target = target[parent]
    if last == "name" and isinstance(target.get("name"), str) and target["name"] != value and parents:
        target.clear()  # another method: the keys of the one before are not its keys
    target[last] = value


def explain(error: ValidationError, raw: Mapping[str, Any]) -> str:
    """The first fault of ``error`` as one line: the key, what was expected, what was found."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "config"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key (found {fault['input']!r}).{_nearest(fault, error)}"
    if fault["type"] == "missing":
        return f"{key}: this key is required and was not found"
    message = fault["msg"].removeprefix("Value error, ")
    found = fault["input"]
    shown = "" if fault["type"] in ("value_error",) else f", found {found!r}"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _nearest(fault: Any, error: ValidationError) -> str:
    """A hint with the nearest known key, where the model that refused the key can be told from the path."""
    model: type[BaseModel] | None = RunConfig
    for part in fault["loc"][:-1]:
        field = model.model_fields.get(str(part)) if model else None
        annotation = field.annotation if field else None
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    known = list(model.model_fields) if model else []
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known keys: {', '.join(known)}." if known else ""
