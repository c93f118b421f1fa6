"""Settings of the process: its device and its memory."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from fedrecon_core.errors import ConfigError

if TYPE_CHECKING:  # a command that runs no model does without PyTorch
    import torch

TRIM, MMAP = -1, -3
"""Parameters of ``mallopt`` (malloc.h of the GNU C library). The heap returns free memory to the system above ``TRIM``
bytes; an allocation above ``MMAP`` bytes gets its own memory mapping."""
KEPT, LARGEST = 256 << 20, 32 << 20
"""Their values here. 32 MiB is the largest ``MMAP`` that every version of the library accepts."""


def choose_device(name: str) -> torch.device:
    """Return the device named by the config: ``auto`` prefers CUDA; ``cuda`` without a GPU is a ``ConfigError``."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: 'cuda' needs a GPU that PyTorch can use, found none; set device: cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> bool:
    """Make this process keep up to 256 MiB of freed memory, and return whether the C library supports this.

    By default, tensors of a megabyte are returned to the system after each step, and those of the next step arrive as
    new pages that the kernel has to clear first: a tenth of the time of a training step on UCI-HAR. Other C libraries
    than the GNU one do not have these parameters; nothing changes there.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(TRIM, KEPT) == 1, mallopt(MMAP, LARGEST) == 1])
