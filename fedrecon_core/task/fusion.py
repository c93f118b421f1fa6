"""What a fusion offers: from tokens to one vector per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from fedrecon_core.config import Params
from fedrecon_core.task.tokens import Tokens


@dataclass(frozen=True)
class FusionShape:
    """Sizes that a fusion is built for. ``learned_weight``: initial log-weight of synthetic tokens that the fusion
    learns itself, per modality and head; None where the tokens bring fixed weights."""

    width: int
    modalities: int
    learned_weight: float | None = None


class Fusion(nn.Module, ABC):
    """Base of a registered fusion."""

    Params: ClassVar[type[Params]] = Params
    outputs: int

    def __init__(self, params: Any, shape: FusionShape) -> None:
        """``params`` are the fusion's own keys of the config."""
        super().__init__()

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tensor:
        """[B, outputs]; a sample without any token gives zeros."""
