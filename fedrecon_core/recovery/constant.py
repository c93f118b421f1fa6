"""Shared by the simple fills: a value for every absent modality, passed through its extractor as if it were real."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import Groups
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, ModalitySpec, Rows


class PlainFill(Recovery):
    """Every absent modality is filled, so every extractor trains at every site, as in the FedMultimodal benchmark."""

    fills_everything = True

    @abstractmethod
    def values(self, modality: ModalitySpec, rows: int, knowledge: Knowledge) -> Tensor:
        """[rows, *shape]: what stands in for ``rows`` absent samples."""

    def recover(self, batch: Batch, groups: Groups, knowledge: Knowledge) -> list[Fill]:
        """One fill per modality that some sample of the batch lacks."""
        fills = []
        for modality in self.spec.modalities:
            index = self.absent(batch, modality.name)
            if len(index):
                values = self.values(modality, len(index), knowledge).to(batch.device)
                weight = torch.ones(len(index), device=batch.device)
                fills.append(Fill(modality.name, "plain", Rows(values, index), weight, synthetic=False))
        return fills
