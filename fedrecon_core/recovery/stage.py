"""A stage of the local round, as data: which groups it trains, which it freezes, and its objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.statistics import Statistics, after_scaling
from fedrecon_core.state import Groups, State
from fedrecon_core.task.model import TaskModel
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, DatasetSpec

PhaseName = Literal["generator", "mapping", "task"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
"""In the order of a local round; the names of the groups that each trains begin with its own and a dot."""


@dataclass(frozen=True)
class GlobalInfo:
    """What travels with the groups. ``trained``: group -> samples that trained it so far (0: never aggregated);
    ``quality``: mapping group -> validation score in [0, 1]; ``round`` counts from 1."""

    round: int
    trained: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def after_scaling(self, spec: DatasetSpec) -> GlobalInfo:
        """The same beside scaled data: with the statistics that a model sees there."""
        return replace(self, statistics=after_scaling(spec.modalities, self.statistics))


@dataclass
class LocalContext:
    """What a site's local round works on: the groups of its plan, its data, and the round's frozen received groups.

    ``received`` holds untouched copies of the groups that a recovery asks to keep frozen beside the trained ones;
    ``trained_here`` collects the groups that finished a stage in this round, ``quality`` the scores of their mappings.
    ``stream`` gives the random generator of a named purpose, the same in every round; ``recover`` the fills of a batch
    as the task stage sees them; ``logits_hook`` and ``extra_loss`` are the local half of the strategy.
    """

    groups: Groups
    data: SiteData
    global_info: GlobalInfo
    stream: Callable[[str], torch.Generator]
    received: Groups = field(default_factory=dict)
    trained_here: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    logits_hook: Callable[[Tensor, Tensor], Tensor] = lambda logits, labels: logits
    extra_loss: Callable[[TaskModel, Batch], Tensor | float] = lambda model, batch: 0.0
    recover: Callable[[Batch, LocalContext], Sequence[Fill]] = lambda batch, context: ()


class SiteStore(Protocol):
    """What a site remembers between rounds: named sets of groups, on its own disk."""

    def load(self, name: str) -> dict[str, State]:
        """The set kept last under ``name``; empty if there is none."""
        ...

    def load_accepted(self, name: str) -> dict[str, State]:
        """The set kept under ``name`` beside the last reply that the server accepted; empty before the first one. What
        was kept beside others does not count: the server knows nothing of it."""
        ...

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Keep ``groups`` under ``name``."""
        ...


class Objective(ABC):
    """What a stage minimises. Whatever can be computed once per stage is computed when the object is made."""

    items: int
    """How many items an epoch goes through; 0 skips the stage."""
    lengths: Tensor | None = None
    """int64 [items]: how long each item is where they differ, so that batches hold items of like length."""

    @abstractmethod
    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the items ``index`` (int64 [B], below ``items``), differentiable."""

    def counts(self) -> dict[str, int]:
        """Group -> samples (or pairs) that pass through it in this stage, real or filled."""
        return {}

    def real(self) -> dict[str, int]:
        """Group -> the real ones among ``counts``; equal to it unless a stage sees filled samples."""
        return self.counts()

    def quality(self) -> dict[str, float]:
        """Mapping group -> validation score, read after the stage."""
        return {}


@dataclass(frozen=True)
class Stage:
    """One step of the local loop. ``objective`` is called when the stage's turn has come."""

    name: str
    phase: PhaseName
    trains: tuple[str, ...]
    freezes: tuple[str, ...]
    objective: Callable[[LocalContext], Objective]


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Stop (or resume) gradients, and switch dropout off (or on)."""
    module.train(not frozen)
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
