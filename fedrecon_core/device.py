"""Which device a process computes on."""

import torch

from fedrecon_core.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one; ``cuda`` without a GPU is a ``ConfigError``."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' needs a GPU that PyTorch can use, found none; set device: cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
