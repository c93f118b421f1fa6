"""Runs that stop in a given round, and a local half that shows whether a round was applied twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fedrecon_core.local.hook import LocalHook
from server.training.rounds import Rounds


def stop_in(round_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a run is interrupted when it would validate ``round_``."""
    original = Rounds._validate

    def crash(self: Rounds, current: int) -> Any:
        if current == round_:
            raise KeyboardInterrupt
        return original(self, current)

    monkeypatch.setattr(Rounds, "_validate", crash)


class Momentum(LocalHook):
    """A local half whose state at the site grows with every round that is applied, and bends the training by it."""

    def begin(self, local_context: Any, memory: Any) -> None:
        self.seen = memory.kept.get("seen", {"rounds": torch.zeros(1)})["rounds"]

    def gradients(self, parameters: Any) -> None:
        for _, parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1 + float(self.seen))

    def end(self, paces: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"seen": {"rounds": self.seen + 1}}
