"""Modalities whose training values are made of all those of a natural id: no mask may hide a part of them."""

from __future__ import annotations

from fedrecon_core.config import RunConfig
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import PARTITIONS

WHOLE = ("site", "profile")
"""Levels at which a site lacks a modality for all of its samples."""


def refuse_partly_hidden(dataset: Dataset, config: RunConfig) -> None:
    """``ConfigError`` where absent values would reach a model through those that are shown: where a mask may hide some
    of a natural id's training values in ``dataset.by_natural`` and show others."""
    level = config.missing.train.level
    if not dataset.by_natural or level == "none":
        return
    names = " and ".join(dataset.by_natural)
    why = f"each {names} value of {dataset.spec.name} is normalised by all training values of its natural id"
    if level not in WHOLE:
        raise ConfigError(
            f"missing.train.level: expected none or {' or '.join(WHOLE)}, since {why}, hidden ones too, found {level}; "
            "use data.protocol: default"
        )
    partition = config.data.partition.name
    if not PARTITIONS.get(partition).keeps_naturals:
        raise ConfigError(
            f"data.partition: expected natural with missing.train.level {level}, since {why}, those hidden at "
            f"another site too, found {partition}; set it to natural, or use data.protocol: default"
        )
