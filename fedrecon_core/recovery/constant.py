"""Shared by the simple fills: a value for every absent modality, passed through its extractor as if it were real."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import Groups
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch, ModalitySpec, Rows


class SampleFill(Recovery):
    """Every absent modality is filled, so every extractor trains at every site, as in the FedMultimodal benchmark. What
    fills it may differ by sample."""

    fills_everything = True

    def weight(self) -> float:
        """How much the fusion attends to a fill, 1 for as much as to real input."""
        return 1.0

    @abstractmethod
    def values_of(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape]: what stands in for the samples ``ids`` (int64 [R]). Within a stage a sample's values are the
        same at every call, in whatever company: a site may keep them or have them made anew for each batch."""

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """One fill per modality that some sample of the batch lacks."""
        fills = []
        for modality in self.spec.modalities:
            index = self.absent(batch, modality.name)
            if len(index):
                values = self.values_of(modality, batch.ids[index], global_info).to(batch.device)
                weight = torch.full((len(index),), self.weight(), device=batch.device)
                fills.append(Fill(modality.name, "plain", Rows(values, index), weight, synthetic=False))
        return fills


class PlainFill(SampleFill):
    """The same values for every sample."""

    @abstractmethod
    def values(self, modality: ModalitySpec, rows: int, global_info: GlobalInfo) -> Tensor:
        """[rows, *shape]: what stands in for ``rows`` absent samples, alike for all."""

    def values_of(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape] for the samples ``ids``."""
        return self.values(modality, len(ids), global_info)
