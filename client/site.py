"""Base class of sites: name, data and state folder. A site has its own data (``client.deployed``), or is simulated with
samples that the server assigns (``client.simulated``)."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from flwr.app import Context

from client.site_store import DiskSiteStore
from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.plugins import MissingPluginError
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.registry import CORE_PACKAGES, discover
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import Groups
from fedrecon_core.types import DatasetSpec
from strategies.fedavg import strategy_class
from strategies.messages import OwnData, TrainInstruction


class Site(ABC):
    """The site that handles one message."""

    def __init__(self, context: Context, instruction: TrainInstruction) -> None:
        """``context`` is that of the node; ``instruction`` is the one in the message."""
        self.node_config = context.node_config
        self.run_config = context.run_config
        self.instruction = instruction

    @property
    def config(self) -> RunConfig:
        """The config of the run."""
        return config_of(self.instruction.config)

    @property
    def recovery(self) -> Recovery:
        """The recovery of the run over this site's data specification."""
        return recovery_of(self.instruction.config, self.spec)

    @property
    def modules(self) -> Groups:
        """The modules of all groups."""
        return modules_of(self.instruction.config, self.spec)

    @cached_property
    def hook(self) -> LocalHook:
        """The strategy's local half for this message."""
        return strategy_class(self.config).local_half(self.config.strategy)

    @property
    @abstractmethod
    def name(self) -> str:
        """The site's name. It seeds the site's random streams."""

    @property
    @abstractmethod
    def spec(self) -> DatasetSpec:
        """The specification of its data."""

    @property
    @abstractmethod
    def own(self) -> OwnData | None:
        """The description of its own data, which the server cannot see; None if the server assigned the samples."""

    @property
    @abstractmethod
    def data_hash(self) -> str:
        """A SHA-256 that changes with any file of its own data; empty if the server assigned the samples."""

    @abstractmethod
    def data(self, split: str, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """Its samples of ``split``, scaled by ``statistics``; ``DataError`` if they cannot be used."""

    def training(self, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """Its training samples, for messages about another split."""
        return self.data("train", statistics)

    @property
    @abstractmethod
    def folder(self) -> Path:
        """The folder of its state in this run."""

    @property
    def store(self) -> DiskSiteStore:
        """Storage of its state between rounds."""
        return DiskSiteStore(self.folder, self.instruction.round, self.instruction.accepted)


@lru_cache(maxsize=8)
def config_of(text: str) -> RunConfig:
    """Parse the config in a message, once per process; ``MissingPluginError`` if a plugin is not installed here."""
    discover((*CORE_PACKAGES, "strategies"))
    try:
        return parse(json.loads(text))
    except MissingPluginError as error:
        raise MissingPluginError(error.names, at_site=True) from None


@lru_cache(maxsize=2)
def recovery_of(text: str, spec: DatasetSpec) -> Recovery:
    """The recovery of a config over a data specification."""
    return recovery_for(config_of(text), spec)


@lru_cache(maxsize=2)
def modules_of(text: str, spec: DatasetSpec) -> Groups:
    """The modules of all groups, built once per process: a message replaces all parameters of the groups that it
    uses."""
    device = choose_device(config_of(text).device)
    return {name: module.to(device) for name, module in recovery_of(text, spec).build().items()}
