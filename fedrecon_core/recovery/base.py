"""What every recovery has: its models as parameter groups, a transfer plan, the stages of a local round, and fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from fedrecon_core import seeding
from fedrecon_core.config import ModelConfig, Params
from fedrecon_core.errors import ConfigError
from fedrecon_core.modalities.base import KindParams, ModalityKind
from fedrecon_core.recovery.dropout import DropoutParams, drop_modalities
from fedrecon_core.recovery.fills import KEPT, NONE_KEPT, SiteFills
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, Objective, SiteStore, Stage
from fedrecon_core.registry import MODALITIES, RECOVERIES
from fedrecon_core.state import HEAD_GROUP, Groups, TransferPlan, extractor_group
from fedrecon_core.task.model import Head, TaskModel
from fedrecon_core.task.target import target_of
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec, ModalitySpec

if TYPE_CHECKING:
    from fedrecon_core.recovery.reconstruction import Reconstructor

Builder = Callable[[], nn.Module]


class Recovery:
    """Base of a registered recovery. On its own it is a task model over present modalities only."""

    Params: ClassVar[type[Params]] = Params
    reads_absent: ClassVar[bool] = False
    """True only for the bound ``oracle``: its data objects carry the sealed copy of the absent rows."""
    reads_statistics: ClassVar[bool] = False
    """Whether fills need the modalities' statistics, so that they travel with the groups."""
    fills_everything: ClassVar[bool] = False
    """Whether absent modalities always get an input, so that their extractors train everywhere."""

    def __init__(self, config: ModelConfig, spec: DatasetSpec) -> None:
        """``config.recovery`` holds this class's ``Params``."""
        self.config = config
        self.spec = spec
        self.params: Any = config.recovery
        self.kinds: dict[str, ModalityKind] = {}
        _refuse_strangers(config, spec)
        for modality in spec.modalities:
            kind: type[ModalityKind] = MODALITIES.get(modality.kind)
            self.kinds[modality.name] = kind(_keys_of(config, modality), modality)

    # --- models -----------------------------------------------------------------------------------------------

    def builders(self) -> dict[str, Builder]:
        """Group -> how its module is made, for every group of the federation."""
        made: dict[str, Builder] = {extractor_group(name): self._extractor(name) for name in self.spec.names}
        made[HEAD_GROUP] = self._head
        return made

    def _extractor(self, name: str) -> Builder:
        return lambda: self.kinds[name].extractor(self.config.task.width)

    def _head(self) -> nn.Module:
        return Head(self.config.task, self.spec, self.learned_weight())

    def learned_weight(self) -> float | None:
        """Initial log-weight of synthetic tokens where the fusion learns it, else None."""
        return None

    def build(self, names: Iterable[str] | None = None) -> Groups:
        """The modules of ``names`` (default all), each initialised from its own stream: a group starts the same under
        every recovery that has it."""
        builders = self.builders()
        groups: Groups = {}
        for name in sorted(builders if names is None else names):
            with seeding.scope(self.config.seed, "initialisation", name):
                groups[name] = builders[name]()
        return groups

    # --- who needs what ---------------------------------------------------------------------------------------

    def plan(self, modalities: Sequence[str]) -> TransferPlan:
        """The transfer plan of a site that holds ``modalities``."""
        held = self.spec.names if self.fills_everything else modalities
        groups = [HEAD_GROUP, *(extractor_group(name) for name in held)]
        return TransferPlan.of(groups, groups)

    # --- the local round --------------------------------------------------------------------------------------

    def freeze(self, groups: Groups, plan: TransferPlan, global_info: GlobalInfo, store: SiteStore) -> Groups:
        """The received groups of which the site keeps a frozen version beside the one that it trains."""
        return {}

    def stages(self, context: LocalContext) -> list[Stage]:
        """The stages of a local round, in order."""
        return [self.task_stage(context)]

    def task_stage(self, context: LocalContext) -> Stage:
        """The last stage of every recovery: the target's loss on present and filled tokens."""
        trains = tuple(sorted(name for name in context.groups if name.startswith("task.")))
        freezes = tuple(sorted(set(context.groups) - set(trains)))
        return Stage("task", "task", trains, freezes, lambda shop: TaskObjective(self, shop))

    @property
    def modality_dropout(self) -> float:
        """The probability with which the task stage hides what samples show; 0 for a recovery without that key."""
        return self.params.modality_dropout if isinstance(self.params, DropoutParams) else 0.0

    def training_batch(self, batch: Batch) -> Batch:
        """What the task stage reads of a batch of the site's samples; what it hides is drawn from its own stream."""
        rate = self.modality_dropout
        return drop_modalities(batch, self.spec.names, rate) if rate else batch

    # --- filling ----------------------------------------------------------------------------------------------

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """Fills for the absent modalities of ``batch`` from one set of groups (at evaluation: the global ones)."""
        return []

    def recover_locally(self, batch: Batch, context: LocalContext) -> list[Fill]:
        """Fills in the task stage of a local round; a recovery with frozen and local models overrides it."""
        return self.recover(batch, context.groups, context.global_info)

    def translator(self, groups: Groups, global_info: GlobalInfo) -> Reconstructor | None:
        """What turns one modality into another with trained generators; None for recoveries that have none."""
        return None

    def absent(self, batch: Batch, name: str) -> Tensor:
        """int64: the places of ``batch`` where modality ``name`` is absent."""
        return torch.nonzero(~batch.present[:, self.spec.names.index(name)]).flatten()


def _keys_of(config: ModelConfig, modality: ModalitySpec) -> Params:
    """The keys of the modality's kind; one that came from elsewhere may know none of a single modality."""
    keys = config.modalities[modality.kind]
    return keys.of(modality.name) if isinstance(keys, KindParams) else keys


def _refuse_strangers(config: ModelConfig, spec: DatasetSpec) -> None:
    """Keys of one modality (``only``) act nowhere where the data have no such modality of that kind."""
    for kind, keys in config.modalities.items():
        known = [modality.name for modality in spec.modalities if modality.kind == kind]
        stray = sorted(set(keys.only) - set(known)) if isinstance(keys, KindParams) else []
        if stray:
            told = ", ".join(known) or "no modality of this kind"
            raise ConfigError(f"modalities.{kind}.only: expected {told}, found {stray[0]}")


def recovery_for(config: ModelConfig, spec: DatasetSpec) -> Recovery:
    """The recovery that ``config`` names, over the data set's spec."""
    cls: type[Recovery] = RECOVERIES.get(config.recovery.name)
    return cls(config, spec)


class TaskObjective(Objective):
    """The target's loss of the task model over present rows and the site's fills."""

    def __init__(self, recovery: Recovery, context: LocalContext) -> None:
        self.recovery = recovery
        self.context = context
        self.model = TaskModel(context.groups, recovery.spec)
        self.target = target_of(recovery.spec)
        limit = NONE_KEPT if recovery.modality_dropout else KEPT
        self.fills = SiteFills(lambda batch: recovery.recover_locally(batch, context), context.data, limit)
        self.items = len(context.data)
        self.lengths = context.data.lengths()

    def loss(self, index: Tensor) -> Tensor:
        """Cross-entropy or its binary form, mean over the batch, plus the strategy's local term."""
        batch = self.recovery.training_batch(self.context.data.batch(index))
        logits = self.model.logits(batch, self.fills.of(index, batch))
        logits = self.context.logits_hook(logits, batch.labels)
        return self.target.loss(logits, batch.labels) + self.context.extra_loss(self.model, batch)

    def counts(self) -> dict[str, int]:
        """Samples through each extractor, real or filled, and through the head; extractors without any are left out."""
        rows = {name: self.context.data.arrays[name].rows >= 0 for name in self.model.extractors}
        for name, filled in self.fills.seen.items():
            if name in rows:
                rows[name] = rows[name] | filled
        return self._named({name: int(seen.sum()) for name, seen in rows.items()})

    def real(self) -> dict[str, int]:
        """The same without fills."""
        counted = self.counts()
        data = self.context.data
        real = {name: int((data.arrays[name].rows >= 0).sum()) for name in self.model.extractors}
        return {group: count for group, count in self._named(real, keep_zero=True).items() if group in counted}

    def _named(self, counts: dict[str, int], keep_zero: bool = False) -> dict[str, int]:
        named = {extractor_group(name): count for name, count in counts.items() if count or keep_zero}
        return {**named, HEAD_GROUP: self.items}
