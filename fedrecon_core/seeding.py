"""One seed of the run -> an independent random stream for each purpose, round, site and stage.

A stream depends only on its keys, never on earlier draws. Therefore nothing has to be saved for a resume, and no
engine, number of workers or order of sites can change a result.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # data sets draw from NumPy alone
    import torch

Key = str | int


def derive(seed: int, *keys: Key) -> int:
    """A 63-bit seed from the run's seed and the stream's keys (SHA-256, so nearby keys give unrelated streams)."""
    text = "\x1f".join([str(seed), *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *keys: Key) -> np.random.Generator:
    """A NumPy generator for the stream ``keys``."""
    return np.random.default_rng(derive(seed, *keys))


def torch_stream(seed: int, *keys: Key) -> torch.Generator:
    """A CPU torch generator for the stream ``keys`` (batch order is drawn on the CPU on every device)."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *keys))


@contextmanager
def scope(seed: int, *keys: Key) -> Iterator[None]:
    """Seed the global generators (dropout and initialization use them) inside the block and restore them after it."""
    import torch

    saved = (random.getstate(), np.random.get_state(), torch.random.get_rng_state())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    value = derive(seed, *keys)
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.default_generator.manual_seed(value)  # torch.manual_seed takes 650 us, for devices that are absent
    if cuda is not None:
        torch.cuda.manual_seed_all(value)
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])
        torch.random.set_rng_state(saved[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
