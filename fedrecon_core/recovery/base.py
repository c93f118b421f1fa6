"""Base of every recovery: its models as parameter groups, its transfer plan, its stages and its fills."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon_core import seeding
from fedrecon_core.config import ModelConfig, Params
from fedrecon_core.errors import ConfigError
from fedrecon_core.modalities.base import KindParams, ModalityKind
from fedrecon_core.recovery.fills import CACHE_BYTES, NO_CACHE, SiteFills
from fedrecon_core.recovery.reconstruction import Reconstructor
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, Objective, SiteStore, Stage
from fedrecon_core.registry import MODALITIES, RECOVERIES
from fedrecon_core.state import HEAD_GROUP, Groups, TransferPlan, extractor_group
from fedrecon_core.task.model import Head, TaskModel
from fedrecon_core.task.target import target_of
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, ModalitySpec, Rows

Builder = Callable[[], nn.Module]


class DropoutParams(Params):
    """``modality_dropout``: the probability with which the task stage hides each present modality of a sample, drawn
    again for every batch; one modality is always kept. Generators and mappings train on all present modalities."""

    modality_dropout: float = Field(default=0.0, ge=0, lt=1)


class Recovery:
    """Base of a registered recovery. Without overrides it is a task model over the present modalities only."""

    Params: ClassVar[type[Params]] = Params
    reads_absent: ClassVar[bool] = False
    """Whether the data objects carry the sealed copy of the absent rows. True only for the upper bound ``oracle``."""
    reads_statistics: ClassVar[bool] = False
    """Whether fills need the modalities' statistics, which are then sent with the groups."""
    fills_everything: ClassVar[bool] = False
    """Whether absent modalities always get an input, so that every site trains every extractor."""

    def __init__(self, config: ModelConfig, spec: DatasetSpec) -> None:
        """``config.recovery`` is an instance of this class's ``Params``.

        Raises ``ConfigError`` if the config has keys for single modalities (``only``) that the data do not have.
        """
        self.config = config
        self.spec = spec
        self.params: Any = config.recovery
        for name, keys in config.modalities.items():
            known = [modality.name for modality in spec.modalities if modality.kind == name]
            unknown = sorted(set(keys.only) - set(known)) if isinstance(keys, KindParams) else []
            if unknown:
                expected = ", ".join(known) or "no modality of this kind"
                raise ConfigError(f"modalities.{name}.only: expected {expected}, found {unknown[0]}")
        self.kinds: dict[str, ModalityKind] = {}
        for modality in spec.modalities:
            kind: type[ModalityKind] = MODALITIES.get(modality.kind)
            keys = config.modalities[modality.kind]
            own = keys.of(modality.name) if isinstance(keys, KindParams) else keys
            self.kinds[modality.name] = kind(own, modality)

    # --- models -----------------------------------------------------------------------------------------------

    def builders(self) -> dict[str, Builder]:
        """Group name -> function that builds its module, for every group of the federation."""
        width = self.config.task.width
        builders: dict[str, Builder] = {
            extractor_group(name): partial(kind.extractor, width) for name, kind in self.kinds.items()
        }
        builders[HEAD_GROUP] = lambda: Head(self.config.task, self.spec, self.learned_weight())
        return builders

    def learned_weight(self) -> float | None:
        """Initial log-weight of synthetic tokens where the fusion learns it, else None."""
        return None

    def build(self, names: Iterable[str] | None = None) -> Groups:
        """Build the modules of ``names`` (default: all). Each group has its own random stream, so that it starts with
        the same parameters under every recovery that has it."""
        builders = self.builders()
        groups: Groups = {}
        for name in sorted(builders if names is None else names):
            with seeding.scope(self.config.seed, "initialisation", name):
                groups[name] = builders[name]()
        return groups

    def plan(self, modalities: Sequence[str]) -> TransferPlan:
        """The transfer plan of a site with ``modalities``."""
        trained = self.spec.names if self.fills_everything else modalities
        groups = [HEAD_GROUP, *(extractor_group(name) for name in trained)]
        return TransferPlan.of(groups, groups)

    # --- the local round --------------------------------------------------------------------------------------

    def freeze(self, groups: Groups, plan: TransferPlan, global_info: GlobalInfo, store: SiteStore) -> Groups:
        """The received groups of which the site keeps a frozen copy while it trains its own."""
        return {}

    def stages(self, context: LocalContext) -> list[Stage]:
        """The stages of a local round, in order."""
        return [self.task_stage(context)]

    def task_stage(self, context: LocalContext) -> Stage:
        """The last stage of every recovery: the target's loss on present and filled tokens."""
        trains = tuple(sorted(name for name in context.groups if name.startswith("task.")))
        freezes = tuple(sorted(set(context.groups) - set(trains)))
        return Stage("task", "task", trains, freezes, lambda context: TaskObjective(self, context))

    @property
    def modality_dropout(self) -> float:
        """The probability with which the task stage hides a present modality; 0 for a recovery without that key."""
        return self.params.modality_dropout if isinstance(self.params, DropoutParams) else 0.0

    def training_batch(self, batch: Batch) -> Batch:
        """The batch that the task stage trains on: ``batch`` after modality dropout."""
        rate = self.modality_dropout
        return drop_modalities(batch, self.spec.names, rate) if rate else batch

    # --- filling ----------------------------------------------------------------------------------------------

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """Fills for the absent modalities of ``batch`` from one set of groups (in evaluation: the global ones)."""
        return []

    def recover_locally(self, batch: Batch, context: LocalContext) -> list[Fill]:
        """Fills in the task stage of a local round. A recovery with frozen and local models overrides this."""
        return self.recover(batch, context.groups, context.global_info)

    def translator(self, groups: Groups, global_info: GlobalInfo) -> Reconstructor | None:
        """The object that turns one modality into another with trained generators; None if there are no generators."""
        return None

    def absent(self, batch: Batch, name: str) -> Tensor:
        """int64: the positions in ``batch`` of the samples that lack modality ``name``."""
        return torch.nonzero(~batch.present[:, self.spec.names.index(name)]).flatten()


def recovery_for(config: ModelConfig, spec: DatasetSpec) -> Recovery:
    """Build the recovery that ``config`` names, for data of ``spec``."""
    cls: type[Recovery] = RECOVERIES.get(config.recovery.name)
    return cls(config, spec)


class PlainFill(Recovery):
    """Base of the simple recoveries: plain values for every absent modality, passed through its extractor like input.

    Every site therefore trains every extractor, as in the FedMultimodal benchmark.
    """

    fills_everything = True

    def weight(self) -> float:
        """How much the fusion attends to a fill; 1 is as much as to real input."""
        return 1.0

    @abstractmethod
    def values(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape]: the values for the samples ``ids`` (int64 [R]).

        Within a stage a sample must get the same values at every call, whatever the other ids are: a site may cache the
        values or compute them again for each batch.
        """

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """One fill per modality that some sample of the batch lacks."""
        fills = []
        for modality in self.spec.modalities:
            index = self.absent(batch, modality.name)
            if len(index):
                values = self.values(modality, batch.ids[index], global_info).to(batch.device)
                weight = torch.full((len(index),), self.weight(), device=batch.device)
                fills.append(Fill(modality.name, "plain", Rows(values, index), weight, synthetic=False))
        return fills


def expand_features(values: Tensor, modality: ModalitySpec, rows: int) -> Tensor:
    """Repeat per-feature values [F] as [rows, *shape]; all steps of a sequence get the same."""
    return values.view(modality.features).expand(rows, *modality.shape).clone()


def drop_modalities(batch: Batch, names: Sequence[str], rate: float) -> Batch:
    """Modality dropout (Neverova et al., ModDrop, arXiv 1501.00102): hide present modalities at random, so that samples
    with several modalities teach the model to work with each of them alone. ``names`` are in the order of the presence
    mask's columns."""
    present = keep_at_random(batch.present, rate)
    columns = dict(zip(names, present.unbind(dim=1), strict=True))
    inputs = {}
    for name, rows in batch.inputs.items():
        kept = columns[name][rows.index]
        lengths = None if rows.lengths is None else rows.lengths[kept]
        inputs[name] = Rows(rows.values[kept], rows.index[kept], lengths)
    return replace(batch, inputs=inputs, present=present)


def keep_at_random(present: Tensor, rate: float) -> Tensor:
    """bool [B, M]: ``present`` with each modality of each sample hidden with probability ``rate``.

    A sample that would lose all its modalities keeps one, each with the same chance. Drawn from PyTorch's global
    generator on the CPU, so the result is the same on every device.
    """
    draws = torch.rand(present.shape).to(present.device).masked_fill(~present, -1)
    kept, highest = draws >= rate, F.one_hot(draws.argmax(dim=1), present.shape[1]).bool()
    return kept | (highest & present & ~kept.any(dim=1, keepdim=True))


class TaskObjective(Objective):
    """The target's loss of the task model on present rows and the site's fills."""

    def __init__(self, recovery: Recovery, context: LocalContext) -> None:
        self.recovery = recovery
        self.context = context
        self.model = TaskModel(context.groups, recovery.spec)
        self.target = target_of(recovery.spec)
        limit = NO_CACHE if recovery.modality_dropout else CACHE_BYTES
        self.fills = SiteFills(lambda batch: recovery.recover_locally(batch, context), context.data, limit)
        self.items = len(context.data)
        self.lengths = context.data.lengths()

    def loss(self, index: Tensor) -> Tensor:
        """Cross-entropy or binary cross-entropy, mean over the batch, plus the strategy's local term."""
        batch = self.recovery.training_batch(self.context.data.batch(index))
        logits = self.model.logits(batch, self.fills.of(index, batch))
        logits = self.context.logits_hook(logits, batch.labels)
        return self.target.loss(logits, batch.labels) + self.context.extra_loss(self.model, batch)

    def counts(self) -> dict[str, int]:
        """Samples through each extractor, real or filled, and through the head; extractors without any are left out."""
        counts = {}
        for name in self.model.extractors:
            used = self.context.data.arrays[name].rows >= 0
            if name in self.fills.filled:
                used = used | self.fills.filled[name]
            if used.any():
                counts[extractor_group(name)] = int(used.sum())
        return {**counts, HEAD_GROUP: self.items}

    def real(self) -> dict[str, int]:
        """The same counts without fills."""
        arrays = self.context.data.arrays
        real = {extractor_group(name): int((arrays[name].rows >= 0).sum()) for name in self.model.extractors}
        real[HEAD_GROUP] = self.items
        return {group: real[group] for group in self.counts()}
