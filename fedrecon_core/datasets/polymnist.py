"""Data set ``polymnist``: PolyMNIST (Sutter et al. 2021), five modalities with a digit on five backgrounds.

The raw files have one of two layouts. ``png``: the official folders ``PolyMNIST/{train,test}/m{0..4}/{i}.{digit}.png``.
``idx``: the four files of MNIST (plain or .gz) and a folder ``backgrounds`` with a photograph per modality, from which
the set is built: the digit is binarized at half of its range and inverts a random crop of background m.

The official folders do not say which digit of MNIST a picture shows. Their training and test parts share none, but
validation is taken from the training part, so a digit of a validation tuple may also occur, on another background and
in another modality, in a training tuple. Use ``idx`` if validation scores must be free of this.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fedrecon_core.config import DataParams
from fedrecon_core.data.dataset import IntArray
from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.datasets.prepared import PreparedLoader
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.expected_files import ExpectedFile
from fedrecon_core.preparation.feature_rows import file_states, rows_version
from fedrecon_core.preparation.raw_dataset import FloatArray, RawDataset
from fedrecon_core.preparation.raw_readers.digit_pictures import (
    BACKGROUNDS,
    MOST,
    SIDE,
    Bytes,
    backgrounds_of,
    crop_positions,
    inverted,
    mnist_part,
    picture,
    pixels_of,
)
from fedrecon_core.registry import DATASETS
from fedrecon_core.seeding import numpy_stream
from fedrecon_core.types import DatasetSpec, Likelihood, ModalitySpec, StrictModel

THRESHOLD = 128
TEST = MOST
"""First id of the test part; ids of the training part start at zero."""
PARTS = ("train", "test")
MNIST = {
    "train-images-idx3-ubyte": ("MNIST's training images", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": ("MNIST's training labels", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": ("MNIST's test images", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": ("MNIST's test labels", "ec29112dd5afa0611ce80d1b7f02629c"),
}
"""File -> description, and the MD5 of the published .gz file."""
RECURS = (
    "layout png: validation is taken from the official training part, whose pictures do not say which digit of MNIST "
    "they show; that of a validation tuple may also occur, on another background, in a training tuple, and the "
    "validation score may be too high. The test part is not affected."
)
stream = partial(numpy_stream, 0, "polymnist")  # fixed: every preparation gives the same set


class PolyMNISTRaw(StrictModel):
    """``layout`` of the raw files. ``pairing``: the modalities of a tuple share the class or (``idx`` only) the same
    digit. ``modalities``: number of modalities. ``validation``: number of held-out digits of the training part;
    ``train_tuples`` of the others (all) and ``test_tuples`` of the test part (all) are used. A smaller set is a subset
    of a larger one, with the same shares of the classes."""

    layout: Literal["auto", "png", "idx"] = "auto"
    pairing: Literal["class", "instance"] = "class"
    modalities: int = Field(default=5, ge=2, le=5)
    validation: int = Field(default=5000, ge=1)
    train_tuples: int | None = Field(default=None, ge=1)
    test_tuples: int | None = Field(default=None, ge=1)


@DATASETS.register("polymnist")
class PolyMNIST(PreparedLoader):
    """Color digits 3x28x28 in [0, 1], modalities m0 to m4, ten classes. The cluster of a sample is its tuple, with
    layout ``idx`` the digit of m0; there, no digit is in two splits in any modality."""

    name = "polymnist"
    Raw = PolyMNISTRaw
    Params = DataParams
    modalities = ("m0", "m1", "m2", "m3", "m4")

    @classmethod
    def expected_files(cls, keys: PolyMNISTRaw, raw: Path) -> Sequence[ExpectedFile]:
        """The official folders, or the files to build the set from."""
        layout = _layout(keys, raw)
        if layout == "png":
            what = "pictures {number}.{digit}.png (PolyMNIST's official folders)"
            folders = [_base(raw).relative_to(raw) / part / name for part in PARTS for name in _names(keys)]
            return [ExpectedFile((folder / "*.png").as_posix(), what) for folder in folders]
        if layout == "idx":
            what = f"a photograph per modality, m0 to m{keys.modalities - 1} (jpg, png, ...)"
            backgrounds = ExpectedFile(f"{BACKGROUNDS}/*", what, least=keys.modalities)
            files = []
            for name, (what, md5) in MNIST.items():  # the published checksums are those of the compressed files
                if not (raw / name).exists() and (raw / f"{name}.gz").exists():
                    files.append(ExpectedFile(f"{name}.gz", f"{what} as published", md5=md5))
                else:
                    files.append(ExpectedFile(name, f"{what} ({name} or {name}.gz)"))
            return [*files, backgrounds]
        expected = (
            "the official folders PolyMNIST/{train,test}/m0 to m4 (or MNIST's four files and a folder backgrounds)"
        )
        return [ExpectedFile("PolyMNIST", expected)]

    @classmethod
    def read_raw(cls, keys: PolyMNISTRaw, raw: Path, cache: Path) -> RawDataset:
        """Read the tuples of either layout; ``DataError`` naming an invalid file or key."""
        return _read_folders(keys, raw) if _layout(keys, raw) == "png" else _build_from_mnist(keys, raw)


def _layout(keys: PolyMNISTRaw, raw: Path) -> str:
    """Return the layout given by the keys or found in the files; empty if there is neither."""
    if keys.layout != "auto":
        return keys.layout
    png = any((_base(raw) / part).is_dir() for part in PARTS)
    idx = (raw / BACKGROUNDS).is_dir() or any(raw.glob("*-ubyte*"))
    if png and idx:
        expected = "expected PolyMNIST's official folders or MNIST's files with a folder backgrounds"
        raise DataError(f"--raw {raw}: {expected}, found both; set layout to png or idx")
    return "png" if png else "idx" if idx else ""


def _names(keys: PolyMNISTRaw) -> list[str]:
    return [f"m{m}" for m in range(keys.modalities)]


def _spec(keys: PolyMNISTRaw) -> DatasetSpec:
    likelihood, shape = Likelihood(name="gaussian", std=0.1), (3, SIDE, SIDE)
    return DatasetSpec(
        name=PolyMNIST.name,
        modalities=tuple(ModalitySpec(name=n, kind="image", shape=shape, likelihood=likelihood) for n in _names(keys)),
        classes=tuple(str(digit) for digit in range(10)),
    )


@dataclass(frozen=True)
class _Tuples:
    """All tuples of a raw set: ``ids``, ``classes`` and ``split``, int64 [N]. ``kept``: ascending positions of those in
    the prepared set, int64 [K]."""

    ids: IntArray
    classes: IntArray
    split: IntArray
    kept: IntArray

    def samples(self, modalities: int) -> Samples:
        """Return the kept tuples as samples; every sample has every modality."""
        ids = self.ids[self.kept]
        present = np.ones((len(ids), modalities), dtype=np.bool_)
        return Samples(ids, self.classes[self.kept], self.split[self.kept], ids, present)


def _tuples(keys: PolyMNISTRaw, train: tuple[IntArray, IntArray], test: tuple[IntArray, IntArray]) -> _Tuples:
    """Assign ids and classes (int64 [n] each) of the official parts to the three splits."""
    order, last = _stratified_order(train[1], "train"), _stratified_order(test[1], "test")
    cut = keys.validation
    if cut >= len(order):
        raise DataError(f"validation: expected fewer than the {len(order)} digits of the training part, found {cut}")
    limits = (
        ("train_tuples", keys.train_tuples, len(order) - cut, "of the training part that are not in validation"),
        ("test_tuples", keys.test_tuples, len(last), "of the test part"),
    )
    for key, asked, limit, of in limits:
        if asked is not None and asked > limit:
            raise DataError(f"{key}: expected at most the {limit} digits {of}, found {asked}")
    split = np.repeat([0, 2], [len(order), len(last)])
    split[order[:cut]] = 1
    until = None if keys.train_tuples is None else cut + keys.train_tuples
    kept = np.sort(np.concatenate([order[:until], len(order) + last[: keys.test_tuples]]))
    return _Tuples(
        ids=np.concatenate([train[0], TEST + test[0]]),
        classes=np.concatenate([train[1], test[1]]),
        split=split.astype(np.int64),
        kept=kept.astype(np.int64),
    )


def _stratified_order(classes: IntArray, part: str) -> IntArray:
    """Return all positions (int64 [n]) in a random order in which every prefix has the classes in their shares."""
    rank = np.empty(len(classes))
    for label in range(10):
        members = stream("order", part, label).permutation(np.flatnonzero(classes == label))
        rank[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    return np.argsort(rank, kind="stable").astype(np.int64)


def _base(raw: Path) -> Path:
    """Return the folder of ``train`` and ``test``."""
    return raw if any((raw / part).is_dir() for part in PARTS) else raw / "PolyMNIST"


def _read_folders(keys: PolyMNISTRaw, raw: Path) -> RawDataset:
    if keys.pairing != "class":
        raise DataError(f"pairing: expected class for PolyMNIST's official folders, found {keys.pairing}; it needs idx")
    base = _base(raw)
    tuples = _tuples(keys, *(_picture_numbers(base / part, _names(keys)) for part in PARTS))
    ids, classes = tuples.ids[tuples.kept], tuples.classes[tuples.kept]
    files = [
        (PARTS[int(number >= TEST)], f"{number % TEST}.{digit}.png")
        for number, digit in zip(ids.tolist(), classes.tolist(), strict=True)
    ]

    def rows(modality: str, samples: IntArray) -> list[FloatArray]:
        chosen = (files[sample] for sample in samples.tolist())
        return [picture(base / part / modality / name) for part, name in chosen]

    read = (base / part / modality / name for modality in _names(keys) for part, name in files)
    return RawDataset(
        spec=_spec(keys),
        samples=tuples.samples(keys.modalities),
        rows={name: partial(rows, name) for name in _names(keys)},
        names=[f"{part}/{name}" for part, name in files],
        version=rows_version((), ("png", *file_states(raw, read))),
        faults=(RECURS,),
    )


def _picture_numbers(folder: Path, modalities: Sequence[str]) -> tuple[IntArray, IntArray]:
    """Return ascending numbers and digits (int64 [n] each) of the tuples in one of the two parts."""
    names = {path.name for path in (folder / modalities[0]).glob("*.png")}
    for modality in modalities[1:]:
        differing = sorted(names ^ {path.name for path in (folder / modality).glob("*.png")})
        if differing:
            lacking = folder / (modality if differing[0] in names else modalities[0]) / differing[0]
            raise DataError(f"{lacking}: expected a picture of the same name in each modality, found none here")
    matches = [re.fullmatch(r"(0|[1-9]\d{0,5})\.(\d)\.png", name) for name in sorted(names)]
    for name, match in zip(sorted(names), matches, strict=True):
        if match is None:
            raise DataError(f"{folder / modalities[0] / name}: expected a name like 17.4.png (number, digit)")
    found = sorted((int(match[1]), int(match[2])) for match in matches if match is not None)
    numbers, digits = np.array(found, dtype=np.int64).reshape(-1, 2).T
    if len(numbers) != len(np.unique(numbers)):
        twice = int(numbers[1:][np.diff(numbers) == 0][0])
        raise DataError(f"{folder / modalities[0]}: expected one picture with the number {twice}, found several")
    return numbers, digits


def _build_from_mnist(keys: PolyMNISTRaw, raw: Path) -> RawDataset:
    parts = [mnist_part(raw, prefix) for prefix in ("train", "t10k")]
    tuples, files = _numbered(keys, parts), backgrounds_of(raw, keys.modalities)
    digits = np.concatenate([images for images, _ in parts])
    sources = [_sources(keys.pairing, tuples, m) for m in range(keys.modalities)]
    corners = []  # top and left of the crop of each tuple, int64 [N, 2] for each modality
    for m, file in enumerate(files):
        limits = crop_positions(file)
        drawn = [
            stream("crop", part, m).integers(limits, size=(len(images), 2))
            for part, (images, _) in zip(PARTS, parts, strict=True)
        ]
        corners.append(np.concatenate(drawn))
    sha = hashlib.sha256(f"idx {keys.pairing} {keys.validation}".encode())  # of everything that determines the pictures
    for content in (digits.tobytes(), *(file.read_bytes() for file in files)):
        sha.update(hashlib.sha256(content).digest())
    background = lru_cache(maxsize=1)(pixels_of)  # modalities are prepared one after the other

    def rows(m: int, samples: IntArray) -> list[FloatArray]:
        chosen = tuples.kept[samples]
        shown = digits[sources[m][chosen]] > THRESHOLD
        return [
            inverted(background(files[m]), digit, corner)
            for digit, corner in zip(shown, corners[m][chosen].tolist(), strict=True)
        ]

    return RawDataset(
        spec=_spec(keys),
        samples=tuples.samples(keys.modalities),
        rows={f"m{m}": partial(rows, m) for m in range(keys.modalities)},
        version=sha.hexdigest(),
    )


def sources(keys: PolyMNISTRaw, raw: Path) -> IntArray:
    """Return the id of the digit of each sample in each modality for layout ``idx``, int64 [K, M]."""
    tuples = _numbered(keys, [mnist_part(raw, prefix) for prefix in ("train", "t10k")])
    shown = [tuples.ids[_sources(keys.pairing, tuples, m)][tuples.kept] for m in range(keys.modalities)]
    return np.stack(shown, axis=1)


def _numbered(keys: PolyMNISTRaw, parts: Sequence[tuple[Bytes, IntArray]]) -> _Tuples:
    """Return the tuples, one per digit of MNIST, which is the digit of m0."""
    train, test = ((np.arange(len(digits)), digits) for _, digits in parts)
    return _tuples(keys, train, test)


def _sources(pairing: str, tuples: _Tuples, modality: int) -> IntArray:
    """Return the position of the digit of each tuple in a modality, int64 [N]. With ``class``, every modality except
    the first permutes the digits of each class within each split, so no digit leaves its split."""
    sources = np.arange(len(tuples.ids))
    if pairing == "instance" or modality == 0:
        return sources
    for part in range(3):
        draw = stream("pairing", part, modality)
        for label in range(10):
            members = np.flatnonzero((tuples.split == part) & (tuples.classes == label))
            sources[members] = draw.permutation(members)
    return sources
