"""Data set ``polydigits``: five color modalities in the style of PolyMNIST, built from data that ship with
scikit-learn.

Construction (Sutter et al. 2021, PolyMNIST): modality m shows a digit as the inverted part of a random crop of
background m; the modalities of a tuple share only the class (or, with ``pairing: instance``, the digit).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import BoolArray, Dataset, DatasetLoader, IntArray
from fedrecon_core.registry import DATASETS
from fedrecon_core.seeding import numpy_stream
from fedrecon_core.types import SPLITS, DatasetSpec, Likelihood, ModalitySpec

FloatArray = NDArray[np.float32]
SIDE = 16
SOURCES = 1797
SHARES = (1200 / SOURCES, 200 / SOURCES)
stream = partial(numpy_stream, 0, "polydigits")  # fixed: the data set does not depend on the run's seed


class PolyDigitsParams(DataParams):
    """``pairing``: what the modalities of a tuple share; ``tuples``: training tuples per source digit; ``modalities``:
    number of modalities."""

    pairing: Literal["class", "instance"] = "class"
    tuples: int = Field(default=3, ge=1)
    modalities: int = Field(default=5, ge=2, le=5)


@DATASETS.register("polydigits")
class PolyDigits(DatasetLoader):
    """Color digits 3x16x16 in [0, 1], modalities m0 to m4, ten classes; nothing is downloaded.

    A set with fewer modalities or training tuples is a subset of the larger one.
    """

    Params = PolyDigitsParams
    late_imports = ("sklearn.datasets",)

    def load(self, params: DataParams, root: Path | None, seed: int) -> Dataset:
        """Build the data set. ``root`` and ``seed`` are not used: split, pairing and crops are fixed, so runs with
        different seeds are evaluated on the same test set."""
        keys = cast(PolyDigitsParams, params)
        digits, classes = _digits()
        split, copy, sources = _tuples(keys, classes)
        count = len(split)
        arrays = {}
        for m, background in enumerate(_backgrounds()[: keys.modalities]):
            crops = _crops(background, split, copy, m)
            arrays[f"m{m}"] = np.ascontiguousarray(np.where(digits[sources[:, m]][:, None], 1 - crops, crops))
        likelihood, shape = Likelihood(name="gaussian", std=0.1), (3, SIDE, SIDE)
        return Dataset(
            spec=DatasetSpec(
                name="polydigits",
                modalities=tuple(
                    ModalitySpec(name=m, kind="image", shape=shape, likelihood=likelihood) for m in arrays
                ),
                classes=tuple(str(digit) for digit in range(10)),
            ),
            labels=classes[sources[:, 0]],
            ids=copy * SOURCES + sources[:, 0],
            split=split,
            cluster_ids=sources[:, 0].copy(),
            arrays=arrays,
            rows={name: np.arange(count, dtype=np.int64) for name in arrays},
        )


def sources(params: PolyDigitsParams) -> IntArray:
    """Return the source digit (its number in scikit-learn's set) of each sample in each modality, int64 [N, M]."""
    return _tuples(params, _digits()[1])[2]


def _digits() -> tuple[BoolArray, IntArray]:
    """Return digits bool [1797, 16, 16] and classes int64 [1797]: upsampled bilinearly and binarized at half of the
    range 0..16.

    Pixels and weights are multiples of 1/16, so the result is exact on every machine.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    centers = (np.arange(SIDE) + 0.5) / 2 - 0.5  # positions of the new pixels' centers among the eight old ones
    weights = np.maximum(0, 1 - np.abs(np.clip(centers, 0, 7)[:, None] - np.arange(8)))
    return weights @ digits.images @ weights.T > 8, digits.target.astype(np.int64)


def _tuples(keys: PolyDigitsParams, classes: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return for every sample its split [N], its copy [N] (0 is the first tuple of a source digit) and its source
    digits [N, M]. By ``class``, every modality but the first permutes the source digits of each class within the split,
    so no source digit ever leaves its split."""
    split_of = np.full(len(classes), 2, dtype=np.int64)  # of each source digit, with equal shares of every class
    for label in range(10):
        members = stream("split", label).permutation(np.flatnonzero(classes == label))
        train, validation = (round(share * len(members)) for share in SHARES)
        split_of[members[:train]] = 0
        split_of[members[train : train + validation]] = 1
    split, copy, sources = [], [], []
    for part in range(len(SPLITS)):
        members = np.flatnonzero(split_of == part)
        for number in range(keys.tuples if part == 0 else 1):
            chosen = np.repeat(members[:, None], keys.modalities, axis=1)
            for m in range(1, keys.modalities if keys.pairing == "class" else 1):
                draw = stream("pairing", part, number, m)
                for label in range(10):
                    of_class = classes[members] == label
                    chosen[of_class, m] = draw.permutation(members[of_class])
            split.append(np.full(len(members), part))
            copy.append(np.full(len(members), number))
            sources.append(chosen)
    return tuple(np.concatenate(pieces).astype(np.int64) for pieces in (split, copy, sources))  # type: ignore[return-value]


def _crops(background: FloatArray, split: IntArray, copy: IntArray, modality: int) -> FloatArray:
    """Draw a crop of ``background`` (float32 [3, H, W]) for each sample, float32 [N, 3, 16, 16]."""
    windows = np.lib.stride_tricks.sliding_window_view(background, (SIDE, SIDE), axis=(1, 2))
    top, left = np.empty((2, len(split)), dtype=np.int64)
    for part, number in np.unique(np.stack([split, copy], axis=1), axis=0):
        chosen = (split == part) & (copy == number)
        draw = stream("crop", int(part), int(number), modality)
        top[chosen] = draw.integers(windows.shape[1], size=chosen.sum())
        left[chosen] = draw.integers(windows.shape[2], size=chosen.sum())
    return windows.transpose(1, 2, 0, 3, 4)[top, left]


def _backgrounds() -> list[FloatArray]:
    """Return five backgrounds, float32 [3, H, W] in [0, 1]. None is mid-gray, where an inverted digit would be
    invisible."""
    from sklearn.datasets import load_sample_image

    return [
        0.60 + 0.40 * _shrunk(load_sample_image("china.jpg")),  # light
        0.40 * _shrunk(load_sample_image("flower.jpg")),  # dark
        _texture((0.80, 0.25, 0.20), 0),
        _texture((0.20, 0.75, 0.30), 1),
        _texture((0.25, 0.30, 0.85), 2),
    ]


def _shrunk(photograph: NDArray[np.uint8]) -> FloatArray:
    """Average 4 x 4 pixels of a photograph uint8 [H, W, 3] to float32 [3, H / 4, W / 4] in [0, 1]."""
    height, width = (size // 4 for size in photograph.shape[:2])
    pixels = photograph[: height * 4, : width * 4].reshape(height, 4, width, 4, 3)
    means: FloatArray = (pixels.mean(axis=(1, 3)) / 255).astype(np.float32)
    return means.transpose(2, 0, 1)


def _texture(color: tuple[float, float, float], number: int) -> FloatArray:
    """Return a texture float32 [3, 96, 96] of a few slow random waves of contrast 0.15 around ``color``. Fine texture
    such as white noise would hide a digit, because its inverse looks like itself."""
    draw = stream("texture", number)
    y, x = np.mgrid[0:96, 0:96] * (2 * np.pi / 96)
    waves = np.zeros((3, 96, 96))
    for channel in range(3):
        for _ in range(6):
            across, down = draw.integers(-5, 6, size=2)
            waves[channel] += np.sin(across * x + down * y + draw.uniform(0, 2 * np.pi))
    contrast = 0.15 * waves / np.abs(waves).max()
    texture: FloatArray = (np.array(color)[:, None, None] + contrast).astype(np.float32)
    return texture
