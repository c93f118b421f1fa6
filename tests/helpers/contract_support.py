"""Helpers of the contract checks: data sets with other modalities, sites with gaps, local rounds, comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor, nn

from fedrecon_core import seeding
from fedrecon_core.config import parse
from fedrecon_core.data.dataset import BoolArray, Dataset
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import combine, site_sums
from fedrecon_core.errors import ConfigError
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.local.local_round import TrainRequest, TrainResult, train_locally
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext
from fedrecon_core.registry import Registry
from fedrecon_core.state import Groups, State, TransferPlan, read_group
from server.federation.messaging import ReplyError
from server.federation.reply_validation import validate_train_reply
from strategies.messages import SiteInfo
from tests.helpers.toy import CPU, NAMES, MemoryStore, tiny_dataset

EXTRA = "more_features"
SITE = "site-0001"


def toys(modalities: int = len(NAMES), scale: str = "none") -> Dataset:
    """The toy with its first one to three modalities, or with a fourth that repeats ``features``."""
    dataset = tiny_dataset(scale=scale)
    spec, arrays, rows = dataset.spec, dict(dataset.arrays), dict(dataset.rows)
    if modalities > len(NAMES):
        arrays[EXTRA], rows[EXTRA] = -arrays["features"], rows["features"]
        spec = spec.model_copy(
            update={"modalities": (*spec.modalities, spec["features"].model_copy(update={"name": EXTRA}))}
        )
    kept = spec.modalities[:modalities]
    names = [modality.name for modality in kept]
    return replace(
        dataset,
        spec=spec.model_copy(update={"modalities": kept}),
        arrays={name: arrays[name] for name in names},
        rows={name: rows[name] for name in names},
        offsets={name: borders for name, borders in dataset.offsets.items() if name in names},
    )


def poisoned(dataset: Dataset, present: BoolArray, split: int = 0) -> Dataset:
    """``dataset`` with NaN in all that ``present`` hides, and in every sample of the other splits."""
    members, arrays = dataset.members(split), {}
    for column, (name, array) in enumerate(dataset.arrays.items()):
        arrays[name] = np.full_like(array, np.nan)
        borders = dataset.offsets.get(name, np.arange(len(array) + 1))
        for row in dataset.rows[name][members[present[:, column]]]:
            arrays[name][borders[row] : borders[row + 1]] = array[borders[row] : borders[row + 1]]
    return replace(dataset, arrays=arrays)


def accepted(settings: dict[str, Any], lr: float = 0.05) -> dict[str, Any]:
    """``settings``, with SGD in the task stage if the strategy refuses Adam there."""
    try:
        parse(settings)
    except ConfigError as error:
        if "set local.task.optimizer: sgd" not in str(error):
            raise
        task = {**settings["local"]["task"], "optimizer": "sgd", "lr": lr, "momentum": 0.9}
        return {**settings, "local": {**settings["local"], "task": task}}
    return settings


def gaps(samples: int, modalities: int, rate: float = 0.4, *, empty: bool = False) -> BoolArray:
    """A random presence mask; without ``empty`` every sample keeps something."""
    draw = np.random.default_rng([samples, modalities])
    present = draw.random((samples, modalities)) >= rate
    if not empty:
        present[~present.any(axis=1), 0] = True
    return present


def lonely(samples: int, modalities: int) -> BoolArray:
    """Every sample has a single modality, in turn: no pair anywhere."""
    return np.asarray(np.arange(samples)[:, None] % modalities == np.arange(modalities))


def site_of(dataset: Dataset, present: BoolArray, recovery: Recovery, split: int = 0) -> SiteData:
    """The samples of a split under ``present``, sealed if the recovery reads absent values."""
    return open_site(dataset, dataset.members(split), present, device=CPU, sealed=recovery.reads_absent)


def subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every selection of ``names``, the empty one too, in their order."""
    for size in range(len(names) + 1):
        yield from combinations(names, size)


def fault_of(reply: Message, plan: TransferPlan, current: Mapping[str, State], site: SiteInfo) -> str | None:
    """The reason for which the server rejects a train reply, or None."""
    try:
        validate_train_reply(reply.content, plan, current, site)
    except ReplyError as error:
        return str(error)
    return None


def assert_trained_to(result: TrainResult, parameters: Mapping[str, Tensor]) -> None:
    """A local round ended at ``parameters`` ("group/tensor" -> tensor)."""
    for name, parameter in parameters.items():
        group, tensor = name.split("/")
        torch.testing.assert_close(result.groups[group][tensor], parameter.detach(), rtol=1e-4, atol=1e-5)


def fresh(data: SiteData) -> GlobalInfo:
    """The global information of the first round."""
    return GlobalInfo(1, {}, {}, combine([site_sums(data)]))


def seasoned(recovery: Recovery, data: SiteData) -> GlobalInfo:
    """The global information late in a run, when every group has been trained."""
    return GlobalInfo(99, dict.fromkeys(recovery.builders(), 100), {}, combine([site_sums(data)]))


def states(modules: Mapping[str, nn.Module]) -> dict[str, State]:
    """A copy of every group."""
    return {name: read_group(module) for name, module in modules.items()}


def local_round(
    recovery: Recovery, data: SiteData, global_info: GlobalInfo | None = None, hook: LocalHook | None = None
) -> tuple[TrainRequest, TrainResult, Groups]:
    """One local round from the initial groups: the request, its result, and the modules as it left them."""
    plan = recovery.plan(data.modalities)
    modules = recovery.build(plan.download)
    request = TrainRequest(
        site=SITE,
        recovery=recovery,
        data=data,
        plan=plan,
        received=states(modules),
        global_info=seasoned(recovery, data) if global_info is None else global_info,
        store=MemoryStore(),
        hook=LocalHook() if hook is None else hook,
    )
    return request, train_locally(request, modules), modules


def late_context(recovery: Recovery, data: SiteData) -> LocalContext:
    """A late round's context, for looking at single stages."""
    plan, global_info = recovery.plan(data.modalities), seasoned(recovery, data)
    groups = recovery.build(plan.download)
    return LocalContext(
        groups=groups,
        data=data,
        global_info=global_info,
        stream=lambda purpose: seeding.torch_stream(recovery.config.seed, purpose, SITE),
        received=recovery.freeze(groups, plan, global_info, MemoryStore()),
    )


@contextmanager
def restored(registry: Registry) -> Iterator[None]:
    """Remove what the block registers in ``registry`` afterwards."""
    before = set(registry.names())
    try:
        yield
    finally:
        for name in set(registry.names()) - before:
            registry.forget(name)


def same(left: Mapping[str, State], right: Mapping[str, State]) -> bool:
    """Whether two sets of groups are equal to the byte (NaN equals nothing)."""
    return left.keys() == right.keys() and all(
        left[group].keys() == right[group].keys()
        and all(torch.equal(tensor, right[group][name]) for name, tensor in left[group].items())
        for group in left
    )
