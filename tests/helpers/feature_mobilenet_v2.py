"""Random weights of MobileNetV2, stored as torchvision stores its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.features import use_torchvision


def network(seed: int = 0) -> Any:
    """The real class. Random weights alone would let activations die away, so that one batch sets the statistics."""
    use_torchvision()
    from torchvision.models.mobilenetv2 import MobileNetV2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = MobileNetV2()
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            made.train()(torch.randn(2, 3, 96, 96))
    return made.eval()


def write_weights(path: Path, seed: int = 0) -> Path:
    """A state dict of the whole network."""
    torch.save(network(seed).state_dict(), path)
    return path


def keys(base: Path) -> dict[str, Any]:
    """The feature's keys, with weights below ``base``."""
    return {"weights": str(write_weights(base / "mobilenet_v2.pth"))}
