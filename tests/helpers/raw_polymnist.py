"""Small raw sets in both layouts of PolyMNIST: MNIST's four files with photographs, and the official folders."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fedrecon_core.datasets.polymnist import PolyMNIST, PolyMNISTRaw
from fedrecon_core.preparation.expected_files import file_faults
from fedrecon_core.preparation.writer import write_site_folder

TRAIN, TEST = 50, 20
"""Digits of the two parts."""
VALIDATION = 20


def root(base: Path) -> Path:
    """A prepared folder, built from digits and photographs."""
    write_ingredients(base / "raw")
    return prepared(base / "raw", base / "prepared")


def keys(**changes: Any) -> PolyMNISTRaw:
    """Keys that fit the small sets."""
    return PolyMNISTRaw(**{"validation": VALIDATION, **changes})


def prepared(raw: Path, out: Path, **changes: Any) -> Path:
    """Check and prepare ``raw``, as the command does."""
    chosen = keys(**changes)
    assert file_faults(raw, PolyMNIST.expected_files(chosen, raw)) == []
    write_site_folder(PolyMNIST.read_raw(chosen, raw, raw), out, lambda modality, done, total: None)
    return out


def digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count, 28, 28], every image another, and classes uint8 [count], each in equal number."""
    draw = np.random.default_rng(seed)
    images = (draw.random((count, 28, 28)) * 128).astype(np.uint8)
    for image in images:
        top, left = draw.integers(0, 20, size=2)
        image[top : top + 8, left : left + 6] = draw.integers(129, 256, size=(8, 6))
    return images, draw.permutation(np.arange(count) % 10).astype(np.uint8)


def photographs() -> list[np.ndarray]:
    """Five pictures uint8 [H, W, 3] of different sizes."""
    draw = np.random.default_rng(5)
    return [draw.integers(0, 256, size=(30 + 5 * m, 60 - 6 * m, 3)).astype(np.uint8) for m in range(5)]


def write_ingredients(raw: Path) -> None:
    """MNIST's four files and the photographs, below ``raw``."""
    write_mnist(raw, digits(TRAIN, 0), digits(TEST, 1))
    write_backgrounds(raw, photographs())


def write_mnist(
    raw: Path, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], suffix: str = ""
) -> None:
    """The four files; ``suffix`` may be ``.gz``."""
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte{suffix}", labels)


def write_idx(path: Path, values: np.ndarray) -> None:
    """``values`` uint8 as an IDX file."""
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_backgrounds(raw: Path, pictures: Sequence[np.ndarray], names: Sequence[str] = ()) -> None:
    """``pictures`` as PNG files in ``raw/backgrounds``."""
    (raw / "backgrounds").mkdir(parents=True, exist_ok=True)
    for m, picture in enumerate(pictures):
        Image.fromarray(picture).save(raw / "backgrounds" / (names[m] if names else f"m{m}.png"))


def write_folders(base: Path, modalities: int = 5) -> None:
    """The folders ``train`` and ``test`` in ``base``; first pixels encode part, modality and number."""
    for part, (count, seed) in enumerate(((TRAIN, 0), (TEST, 1))):
        _, classes = digits(count, seed)
        for m in range(modalities):
            folder = base / ("train", "test")[part] / f"m{m}"
            folder.mkdir(parents=True)
            for number, digit in enumerate(classes.tolist()):
                pixels = np.full((28, 28, 3), 20 * digit, dtype=np.uint8)
                pixels[0, 0] = (part, m, number)
                Image.fromarray(pixels).save(folder / f"{number}.{digit}.png")
