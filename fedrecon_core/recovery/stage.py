"""The local round as data: its stages with their objectives, and the context that they work on."""

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
"""In the order of a local round. The groups that a phase trains have names that start with the phase and a dot."""


@dataclass(frozen=True)
class GlobalInfo:
    """Information about the global groups that is sent with them.

    ``round`` counts from 1; ``trained``: group -> samples that trained it so far (0: never aggregated); ``quality``:
    mapping group -> validation score in [0, 1]; ``statistics``: modality -> its mean and standard deviation.
    """

    round: int
    trained: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def after_scaling(self, spec: DatasetSpec) -> GlobalInfo:
        """The global info for scaled data: with the statistics of the scaled values."""
        return replace(self, statistics=after_scaling(spec.modalities, self.statistics))


@dataclass
class LocalContext:
    """Everything that a local round works on.

    ``groups`` are the modules of the site's plan, ``received`` the frozen copies that the recovery keeps of some of
    them (``Recovery.freeze``). ``trained_here`` collects the groups that finished a stage in this round, with their
    counts, and ``quality`` the scores of their mappings. ``stream`` returns the random generator of a named purpose,
    the same in every round. ``recover`` returns the fills of a batch as the task stage uses them. ``logits_hook`` and
    ``extra_loss`` belong to the local half of the strategy.
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
    """Storage of a site's state between rounds: named sets of groups, on its own disk."""

    def load(self, name: str) -> dict[str, State]:
        """The newest set saved as ``name``; empty if there is none."""
        ...

    def load_accepted(self, name: str) -> dict[str, State]:
        """The set saved as ``name`` in the round of the last reply that the server accepted; empty before the first.

        Sets saved with rejected replies are ignored: the server does not know of them.
        """
        ...

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Save ``groups`` as ``name``."""
        ...


class Objective(ABC):
    """The loss of a stage. Whatever can be computed once per stage is computed in the constructor."""

    items: int
    """Number of items in an epoch; with 0 the stage is skipped."""
    lengths: Tensor | None = None
    """int64 [items]: the length of each item where lengths differ; batches then group items of similar length."""

    @abstractmethod
    def loss(self, index: Tensor) -> Tensor:
        """The mean loss of the items ``index`` (int64 [B], below ``items``), differentiable."""

    def counts(self) -> dict[str, int]:
        """Group -> samples (or pairs) that pass through it in this stage, real or filled."""
        return {}

    def real(self) -> dict[str, int]:
        """Group -> the real ones among ``counts``; equal to ``counts`` unless the stage trains on fills."""
        return self.counts()

    def quality(self) -> dict[str, float]:
        """Mapping group -> validation score, computed after the stage."""
        return {}


@dataclass(frozen=True)
class Stage:
    """One step of the local round. ``objective`` is built when the stage starts."""

    name: str
    phase: PhaseName
    trains: tuple[str, ...]
    freezes: tuple[str, ...]
    objective: Callable[[LocalContext], Objective]


def set_frozen(module: nn.Module, frozen: bool) -> None:
    """Switch gradients and dropout of ``module`` off (or on)."""
    module.train(not frozen)
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
