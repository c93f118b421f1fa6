"""The config of a run, and the part of it that is saved with a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from fedrecon_core.config.base import Data, Recovery, Strategy
from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.missing import Missingness
from fedrecon_core.config.sections import Engine, Evaluate, Kinds, Local, Sites, Task, Tracking, Updates
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import use_plugins
from fedrecon_core.types import SPLITS, StrictModel


class ModelConfig(StrictModel):
    """The part of a config that a recovery reads: the model, and how a site trains and scores it.

    It is saved with a trained model, so that the model needs neither the run nor the packages above the core.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    plugins: tuple[str, ...] = Field(default=(), description="installed plugins whose classes the config may use")
    seed: int = Field(default=0, ge=0)
    recovery: Recovery
    modalities: Kinds = Field(default_factory=dict, validate_default=True)
    task: Task = Field(default_factory=Task)
    local: Local = Local()
    evaluate: Evaluate = Evaluate()

    @model_serializer(mode="wrap")
    def _without_empty_plugins(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files, messages and hashes of a run without plugins do not name the key."""
        written: dict[str, Any] = write(self)
        if not self.plugins:
            written.pop("plugins", None)
        return written


class RunConfig(ModelConfig):
    """The config of a run: the model, and the federation that trains it. ``to_yaml`` and ``parse`` are inverse."""

    rounds: int = Field(default=10, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: Data
    sites: Sites = Sites()
    engine: Engine = Engine()
    missing: Missingness = Missingness()
    strategy: Strategy = Field(default="fedavg", validate_default=True)
    updates: Updates = Updates()
    tracking: Tracking = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def set_evaluation_default(cls, raw: Any) -> Any:
        """Let the sites evaluate in a deployment, where the server has no data, unless the config says otherwise."""
        engine, evaluate = raw.get("engine"), raw.get("evaluate", {})
        deployed = isinstance(engine, Mapping) and engine.get("name") == "deployment"
        if deployed and isinstance(evaluate, Mapping) and "where" not in evaluate:
            return {**raw, "evaluate": {"where": "sites", **evaluate}}
        return raw

    @model_validator(mode="after")
    def check_deployment(self) -> Self:
        """Refuse simulated missingness in a deployment, where it would be ignored: a site's folder determines it."""
        if self.engine.simulated:
            return self
        if self.sites.training is not None:
            names = [self.sites.training] if isinstance(self.sites.training, str) else self.sites.training
            advice = "leave it out, and start only the sites that are to train"
            expected = "expected none in a deployment"
            raise InvalidValueError("sites.training", f"{expected}, found {', '.join(names)}; {advice}")
        for split in ("train", *(() if self.evaluate.where == "server" else ("validation", "test"))):
            level = getattr(self.missing, split).level
            if level != "none":
                expected = "expected none in a deployment, where a site's folder determines what is missing"
                advice = "`fedrecon data split` writes simulated sites as folders, with a config for them"
                raise InvalidValueError(f"missing.{split}.level", f"{expected}, found '{level}'; {advice}")
        return self

    @model_validator(mode="after")
    def check_numbers_of_sites(self) -> Self:
        """Compare the numbers of sites in profiles and in ``coupled`` with ``sites.count``."""
        for split in SPLITS:
            profiled = sum(profile.sites for profile in getattr(self.missing, split).profile)
            if profiled and profiled != self.sites.count:
                expected = f"expected profiles of {self.sites.count} sites together (sites.count)"
                raise InvalidValueError(f"missing.{split}.profile", f"{expected}, found {profiled}")
        complete = self.missing.train.complete_sites
        if self.missing.train.level == "coupled" and complete >= self.sites.count:
            expected = f"expected fewer than sites.count ({self.sites.count})"
            raise InvalidValueError("missing.train.complete_sites", f"{expected}, found {complete}")
        return self

    @model_validator(mode="after")
    def check_server_evaluation(self) -> Self:
        """Refuse missingness of sites in held-out data where the server evaluates: its samples belong to no site."""
        for split in ("validation", "test") if self.evaluate.where == "server" else ():
            missing = getattr(self.missing, split)
            if missing.level in ("site", "profile"):
                expected = "expected sample, coupled or none where the server evaluates"
                found = f"found '{missing.level}'; use evaluate.where: sites"
                raise InvalidValueError(f"missing.{split}.level", f"{expected}, {found}")
            if missing.sites:
                expected = "expected no rates of sites where the server evaluates"
                found = f"found those of {len(missing.sites)}; leave them out or use evaluate.where: sites"
                raise InvalidValueError(f"missing.{split}.sites", f"{expected}, {found}")
        return self

    @model_validator(mode="after")
    def check_strategy(self) -> Self:
        """Let the strategy check the rest of the config."""
        self.strategy.check_run(self)
        return self

    @property
    def has_central_data(self) -> bool:
        """Whether the server opens ``data``: to split it among simulated sites, or to evaluate on its held-out part."""
        return self.engine.simulated or self.evaluate.where == "server"

    def to_yaml(self) -> str:
        """The resolved config as YAML, including all defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


Model = TypeVar("Model", bound=ModelConfig)


def parse(raw: Mapping[str, Any]) -> RunConfig:
    """Import the plugins of a config given as plain mappings, and validate it; every fault is a ``ConfigError`` of one
    line."""
    return _parse(raw, RunConfig)


def parse_model(raw: Mapping[str, Any]) -> ModelConfig:
    """Do the same for only the sections of a model."""
    return _parse(raw, ModelConfig)


def _parse(raw: Mapping[str, Any], model: type[Model]) -> Model:
    plugins = raw.get("plugins")
    use_plugins([name for name in plugins if isinstance(name, str)] if isinstance(plugins, list | tuple) else [])
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, raw, model)) from None
