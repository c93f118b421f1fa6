"""A whole run as one config, and its parts that a trained model keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from fedrecon_core.config.base import Data, Recovery, Strategy
from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.missing import Missingness
from fedrecon_core.config.sections import Engine, Evaluate, Kinds, Local, Sites, Task, Tracking, Updates
from fedrecon_core.errors import ConfigError
from fedrecon_core.types import SPLITS, StrictModel


class ModelConfig(StrictModel):
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
    tracking: Tracking = Field(default_factory=dict, validate_default=True)

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
        self._profiles_of_all_sites()
        if self.missing.train.level == "coupled" and self.missing.train.complete_sites >= self.sites.count:
            expected = f"expected fewer than sites.count ({self.sites.count})"
            raise InvalidValueError(
                "missing.train.complete_sites", f"{expected}, found {self.missing.train.complete_sites}"
            )
        if self.evaluate.where == "server":
            self._no_sites_at_the_server()
        self.strategy.check_run(self)
        return self

    def _profiles_of_all_sites(self) -> None:
        for split in SPLITS:
            profiled = sum(profile.sites for profile in getattr(self.missing, split).profile)
            if profiled and profiled != self.sites.count:
                expected = f"expected profiles of {self.sites.count} sites together (sites.count)"
                raise InvalidValueError(f"missing.{split}.profile", f"{expected}, found {profiled}")

    def _no_sites_at_the_server(self) -> None:
        """Where the server evaluates, nothing of the held-out samples can depend on a site."""
        for split in ("validation", "test"):
            missing = getattr(self.missing, split)
            if missing.level in ("site", "profile"):
                expected = "expected sample, coupled or none where the server evaluates"
                told = "use evaluate.where: sites"
                raise InvalidValueError(f"missing.{split}.level", f"{expected}, found '{missing.level}'; {told}")
            if missing.sites:
                expected = "expected no rates of sites where the server evaluates"
                found = f"found those of {len(missing.sites)}; leave them out or use evaluate.where: sites"
                raise InvalidValueError(f"missing.{split}.sites", f"{expected}, {found}")

    @property
    def has_central_data(self) -> bool:
        """Whether the server opens ``data``: to deal it out in a simulation, or to score on its held-out part."""
        return self.engine.simulated or self.evaluate.where == "server"

    def _nothing_simulated_in_a_deployment(self) -> None:
        """Deployed sites lack what their folders lack; a simulated absence would be silently ignored."""
        if self.sites.training is not None and not self.engine.simulated:
            names = [self.sites.training] if isinstance(self.sites.training, str) else self.sites.training
            told = f"found {', '.join(names)}; leave it out, and start the sites that are to train alone"
            raise InvalidValueError("sites.training", f"expected none in a deployment, {told}")
        for split in ("train", *(() if self.evaluate.where == "server" else ("validation", "test"))):
            level = getattr(self.missing, split).level
            if level != "none" and not self.engine.simulated:
                expected = "expected none in a deployment, where a site lacks what its folder lacks"
                told = "`fedrecon data split` writes simulated sites as folders, with a config for them"
                raise InvalidValueError(f"missing.{split}.level", f"{expected}, found '{level}'; {told}")

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
