"""Base of every registered class's keys, and the keys whose value chooses a registered class by its ``name``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny

from fedrecon_core.config.faults import MisfitError, shown
from fedrecon_core.config.groups import OnGroups
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import DATASETS, FEATURES, FUSIONS, PARTITIONS, RECOVERIES, STRATEGIES, Registry
from fedrecon_core.types import DatasetSpec, Frozen


class Params(Frozen):
    """Base of every registered class's own keys; ``name`` chose the class."""

    name: str


@dataclass(frozen=True)
class Choice:
    """A validator that reads ``name``, finds the class and lets its own ``Params`` check the rest."""

    registry: Registry[Any]

    def __call__(self, value: Any) -> Any:
        return value if isinstance(value, Params) else self.params(value).model_validate(self._keys(value))

    def params(self, value: Any) -> type[Params]:
        """The ``Params`` of the class that ``value`` names."""
        name = self._keys(value).get("name")
        if not isinstance(name, str):
            kind = self.registry.kind
            raise ValueError(f"expected a {kind} name or a mapping with the key 'name', found {shown(value)}")
        try:
            cls = self.registry.get(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        chosen: type[Params] = cls.Params
        return chosen

    @staticmethod
    def _keys(value: Any) -> dict[str, Any]:
        return dict(value) if isinstance(value, Mapping) else {"name": value}


Partition = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(PARTITIONS))]


class DataParams(Params):
    """Keys that every data set has; a data set adds its own."""

    root: str | None = Field(default=None, description="folder of the data, relative to the config file")
    partition: Partition = Field(default="iid", validate_default=True)


class StrategyParams(Params):
    """Keys of a strategy, and what it cannot stand beside."""

    def agree_with(self, run: Any) -> None:
        """``MisfitError`` where the strategy has no meaning beside the rest of the config ``run`` (a ``RunConfig``)."""

    def agree_with_data(self, spec: DatasetSpec) -> None:
        """``ConfigError`` where it has none for data of ``spec``."""

    def agree_with_groups(self, names: Collection[str]) -> None:
        """``ConfigError`` where these keys, or a section of them, are to act on groups (``OnGroups``) that are not
        among the run's groups ``names``."""
        for key, keys in (("strategy", self), *((f"strategy.{name}", section) for name, section in self)):
            for told in keys.strays(names) if isinstance(keys, OnGroups) else ():
                raise ConfigError(f"{key}.groups: {told}")


Data = Annotated[SerializeAsAny[DataParams], BeforeValidator(Choice(DATASETS))]
Recovery = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(RECOVERIES))]
Strategy = Annotated[SerializeAsAny[StrategyParams], BeforeValidator(Choice(STRATEGIES))]
Fusion = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(FUSIONS))]
Feature = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(FEATURES))]


def untouched(section: Frozen, keys: Sequence[str], where: str) -> None:
    """A key that does nothing ``where`` it stands must keep its default: who sets it expects an effect."""
    for key in keys:
        default, found = type(section).model_fields[key].default, getattr(section, key)
        if found != default:
            told = f"leave it out, or set it to {default if isinstance(default, str) else json.dumps(default)}"
            raise MisfitError(key, f"expected its default, {default}, {where}, found {found}; {told}")
