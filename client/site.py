"""Who this site is, where its data lie, and what a process keeps open between messages."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from client.shelf import DiskShelf
from fedrecon_core.config import RunConfig, parse
from fedrecon_core.data.allocation import Share
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.site import SiteData, open_site
from fedrecon_core.data.statistics import Statistics, scaled
from fedrecon_core.device import choose_device
from fedrecon_core.errors import DataError
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.registry import CORE_PACKAGES, discover
from fedrecon_core.state import Groups, tensor_bytes
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


@lru_cache(maxsize=2)
def recovery_of(text: str) -> Recovery:
    """The recovery of a config over its data set's spec."""
    config = config_of(text)
    return recovery_for(config, load_dataset(config).spec)


@lru_cache(maxsize=2)
def modules_of(text: str) -> Groups:
    """Every group's module, built once per process; a message overwrites all parameters of the groups that it uses."""
    device = choose_device(config_of(text).device)
    return {name: module.to(device) for name, module in recovery_of(text).build().items()}


def data_of(name: str, order: Order, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
    """The site's samples under their masks, scaled by ``statistics``; only ``oracle`` gets the sealed copy."""
    if order.share is None:
        raise DataError(f"site {name} has no data: a simulated site waits for the server's assignment")
    config = config_of(order.config)
    sealed, known = recovery_of(order.config).reads_absent, dict(statistics or {})
    key = (name, config.data.model_dump_json(), str(config.seed), str(sealed), _digest(order.share, known))
    if key not in _open:
        device, share = choose_device(config.device), order.share
        opened = open_site(load_dataset(config), share.samples, share.present, device=device, sealed=sealed)
        _open[key] = scaled(opened, known)
        while len(_open) > OPEN_SITES:
            _open.popitem(last=False)
    _open.move_to_end(key)
    return _open[key]


def _digest(share: Share, statistics: Mapping[str, Statistics]) -> str:
    digest = hashlib.sha256(share.samples.tobytes() + share.present.tobytes())
    for name in sorted(statistics):
        digest.update(name.encode() + tensor_bytes(statistics[name].mean) + tensor_bytes(statistics[name].std))
    return digest.hexdigest()
