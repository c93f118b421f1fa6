"""Base of the keys of registered classes, and the types of keys that choose a registered class by its ``name``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator

from fedrecon_core.config.errors import InvalidValueError, short_repr
from fedrecon_core.errors import ConfigError, did_you_mean
from fedrecon_core.registry import DATASETS, FEATURES, FUSIONS, PARTITIONS, RECOVERIES, STRATEGIES, Registry
from fedrecon_core.types import DatasetSpec, StrictModel


class Params(StrictModel):
    """Base class of the config keys of a registered class. ``name`` is its registered name."""

    name: str


@dataclass(frozen=True)
class Choice:
    """Validator that finds the class of ``registry`` named by a value, and lets its ``Params`` check the other keys.

    A value is a name, or a mapping with the key ``name``.
    """

    registry: Registry[Any]

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Params):
            return value
        return self.params(value).model_validate(value if isinstance(value, Mapping) else {"name": value})

    def params(self, value: Any) -> type[Params]:
        """The ``Params`` of the class that ``value`` names."""
        name = value.get("name") if isinstance(value, Mapping) else value
        if not isinstance(name, str):
            kind = self.registry.kind
            raise ValueError(f"expected a {kind} name or a mapping with the key 'name', found {short_repr(value)}")
        try:
            cls = self.registry.get(name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        chosen: type[Params] = cls.Params
        return chosen


Partition = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(PARTITIONS))]


class DataParams(Params):
    """Keys that every data set has; a data set adds its own."""

    root: str | None = Field(default=None, description="folder of the data, relative to the config file")
    partition: Partition = Field(default="iid", validate_default=True)


class GroupSelection(StrictModel):
    """Keys of an option that applies only to groups whose names start with one of the prefixes ``groups``."""

    groups: tuple[str, ...] = ("task.",)

    @field_validator("groups")
    @classmethod
    def check_some(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        """Require at least one prefix."""
        if not prefixes:
            raise ValueError("expected at least one prefix of the groups' names, found []; [''] means all groups")
        return prefixes

    def unmatched(self, names: Collection[str]) -> Iterator[str]:
        """One message (expected, found, nearest) for each prefix that matches none of the groups ``names``."""
        for prefix in self.groups:
            if not any(name.startswith(prefix) for name in names):
                families = ", ".join(sorted({name.partition(".")[0] + "." for name in names}))
                expected = f"expected prefixes of the groups of this run, whose names begin with {families}"
                parts = {name[:end] for name in names for end, sign in enumerate(name, 1) if sign == "."}
                hint = did_you_mean(prefix, sorted(parts | set(names)))
                yield f"{expected}; found '{prefix}'{f'. {hint}' if hint else ''}"


class StrategyParams(Params):
    """Keys of a strategy, with the checks that need more than these keys."""

    def check_run(self, run: Any) -> None:
        """Raise ``InvalidValueError`` if the strategy does not fit the rest of a ``RunConfig``."""

    def check_data(self, spec: DatasetSpec) -> None:
        """Raise ``ConfigError`` if the strategy does not fit data of ``spec``."""

    def check_groups(self, names: Collection[str]) -> None:
        """Raise ``ConfigError`` if a prefix in one of the ``GroupSelection``s here matches none of ``names``."""
        for key, keys in (("strategy", self), *((f"strategy.{name}", section) for name, section in self)):
            for fault in keys.unmatched(names) if isinstance(keys, GroupSelection) else ():
                raise ConfigError(f"{key}.groups: {fault}")


Data = Annotated[SerializeAsAny[DataParams], BeforeValidator(Choice(DATASETS))]
Recovery = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(RECOVERIES))]
Strategy = Annotated[SerializeAsAny[StrategyParams], BeforeValidator(Choice(STRATEGIES))]
Fusion = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(FUSIONS))]
Feature = Annotated[SerializeAsAny[Params], BeforeValidator(Choice(FEATURES))]


def require_defaults(section: StrictModel, keys: Sequence[str], where: str) -> None:
    """Raise ``InvalidValueError`` if one of ``keys``, which have no effect here, is not at its default.

    A user who sets such a key expects an effect. ``where`` describes the setting in which it has none.
    """
    for key in keys:
        default, found = type(section).model_fields[key].default, getattr(section, key)
        if found != default:
            advice = f"leave it out, or set it to {default if isinstance(default, str) else json.dumps(default)}"
            raise InvalidValueError(key, f"expected its default, {default}, {where}, found {found}; {advice}")
