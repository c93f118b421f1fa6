"""Who this site is, where its data lie, and what a process keeps open between messages."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import Context

from client.shelf import DiskShelf
from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.allocation import Share
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.site import SiteData, open_site
from fedrecon_core.device import choose_device
from fedrecon_core.errors import DataError
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.registry import CORE_PACKAGES, DATASETS, RECOVERIES, discover
from fedrecon_core.state import Groups
from strategies.messages import Order

OPEN_SITES = 64
"""Simulated sites whose data a process keeps at hand; beyond it the one used longest ago is opened again."""
_open: OrderedDict[tuple[str, ...], SiteData] = OrderedDict()


def name_of(context: Context, order: Order) -> str:
    """The site's stable name: ``site`` of the node config; a simulated node acts for whom the message names."""
    return str(context.node_config.get("site") or order.site)


def is_simulated(context: Context) -> bool:
    """Whether the server assigns this site's samples."""
    return "site" not in context.node_config


def shelf_of(context: Context, order: Order) -> DiskShelf:
    """The site's folder for what it keeps between rounds."""
    own = context.node_config.get("state")
    run = str(context.run_config.get("out") or order.run)
    folder = Path(str(own)) if own is not None else Path(run) / "sites" / name_of(context, order)
    return DiskShelf(folder, order.round)


@lru_cache(maxsize=8)
def config_of(text: str) -> RunConfig:
    """The config in a message, parsed once per process."""
    discover((*CORE_PACKAGES, "strategies"))
    return parse(json.loads(text))


@lru_cache(maxsize=1)
def _load(params: str, seed: int) -> Dataset:
    loader: Any = DATASETS.get(json.loads(params)["name"])
    checked = loader.Params.model_validate_json(params)
    dataset: Dataset = loader().load(checked, None if checked.root is None else Path(checked.root), seed)
    return dataset


def dataset_of(config: RunConfig) -> Dataset:
    """The data set of a config, loaded once per process whatever else the config says."""
    return _load(config.data.model_dump_json(), config.seed)


@lru_cache(maxsize=2)
def recovery_of(text: str) -> Recovery:
    """The recovery of a config over its data set's spec."""
    config = config_of(text)
    cls: Any = RECOVERIES.get(config.recovery.name)
    recovery: Recovery = cls(config, dataset_of(config).spec)
    return recovery


@lru_cache(maxsize=2)
def modules_of(text: str) -> Groups:
    """Every group's module, built once per process; a message overwrites all parameters of the groups that it uses."""
    device = choose_device(config_of(text).device)
    return {name: module.to(device) for name, module in recovery_of(text).build().items()}


def data_of(name: str, order: Order) -> SiteData:
    """The site's samples under their masks; only ``oracle`` gets the sealed copy."""
    if order.share is None:
        raise DataError(f"site {name} has no data: a simulated site waits for the server's assignment")
    config = config_of(order.config)
    sealed = recovery_of(order.config).reads_absent
    key = (name, config.data.model_dump_json(), str(config.seed), str(sealed), _digest(order.share))
    if key not in _open:
        device, share = choose_device(config.device), order.share
        _open[key] = open_site(dataset_of(config), share.samples, share.present, device=device, sealed=sealed)
        while len(_open) > OPEN_SITES:
            _open.popitem(last=False)
    _open.move_to_end(key)
    return _open[key]


def _digest(share: Share) -> str:
    return hashlib.sha256(share.samples.tobytes() + share.present.tobytes()).hexdigest()
