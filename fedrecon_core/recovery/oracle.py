"""``oracle``: an upper bound for simulations. The true absent data replace the reconstructions."""

from __future__ import annotations

import torch
from pydantic import Field

from fedrecon_core.config import Params
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.state import Groups
from fedrecon_core.task.tokens import Fill
from fedrecon_core.types import Batch


class OracleParams(Params):
    """``weight`` of the synthetic token, as in ``fedrecon``."""

    name: str = "oracle"
    weight: float = Field(default=1.0, gt=0)


@RECOVERIES.register("oracle")
class Oracle(Recovery):
    """Shows whether any reconstruction could help. The only recovery that reads the sealed rows."""

    Params = OracleParams
    reads_absent = True
    fills_everything = True

    def recover(self, batch: Batch, groups: Groups, global_info: GlobalInfo) -> list[Fill]:
        """The sealed rows as synthetic tokens of weight w."""
        sealed = batch.sealed or {}
        return [
            Fill(name, "oracle", rows, torch.full((len(rows.index),), float(self.params.weight), device=batch.device))
            for name, rows in sealed.items()
            if len(rows.index)
        ]
