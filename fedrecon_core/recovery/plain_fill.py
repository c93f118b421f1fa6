"""Base of the simple recoveries: plain values for every absent modality, passed through its extractor as real input."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import Groups
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, ModalitySpec, Rows


class PlainFill(Recovery):
    """Every absent modality is filled, so every site trains every extractor, as in the FedMultimodal benchmark."""

    fills_everything = True

    def weight(self) -> float:
        """How much the fusion attends to a fill; 1 is as much as to real input."""
        return 1.0

    @abstractmethod
    def values(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape]: the values for the samples ``ids`` (int64 [R]).

        Within a stage a sample must get the same values at every call, whatever the other ids are: a site may cache
        the values or compute them anew for each batch.
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
