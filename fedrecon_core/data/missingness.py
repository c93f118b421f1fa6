"""Presence masks: which sample shows which modality, in a split, under the config's level and rate.

A mask depends only on the config's missingness, the run's seed, the position of the sample (or site) and on which
modalities really exist, never on a value of an array, a label, the recovery or the strategy. Row i of a draw depends
on no other row, so a longer split or more sites keep the masks of those before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import Missing
from fedrecon_core.data.dataset import BoolArray
from fedrecon_core.errors import ConfigError
from fedrecon_core.seeding import numpy_stream

FloatArray = NDArray[np.float64]
Empty = Literal["redraw", "skip", "allow"]


@dataclass(frozen=True)
class Scheme:
    """The missingness of one ``split``: its config, the modality ``names`` in the order of the mask's columns, what
    happens to a sample or site that would keep nothing, and the run's ``seed``."""

    missing: Missing
    empty: Empty
    names: tuple[str, ...]
    split: str
    seed: int

    @property
    def key(self) -> str:
        """The config key that error messages name."""
        return f"missing.{self.split}"

    def stream(self, *purpose: str | int) -> np.random.Generator:
        """The random stream of one draw of this split."""
        return numpy_stream(self.seed, "missing", self.split, *purpose)


def rates(scheme: Scheme) -> FloatArray:
    """float64 [M]: the probability that each modality is absent; a mapping leaves out those that are always there.

    Raises ``ConfigError`` for an unknown modality, and where ``redraw`` could never keep anything.
    """
    rate = scheme.missing.rate
    if isinstance(rate, dict):
        _known(scheme, tuple(rate), f"{scheme.key}.rate")
        values = np.array([rate.get(name, 0.0) for name in scheme.names], dtype=np.float64)
    else:
        values = np.full(len(scheme.names), rate, dtype=np.float64)
    if scheme.empty == "redraw" and (values >= 1).all():
        raise ConfigError(
            f"{scheme.key}.rate: with missing.empty: redraw some modality needs a rate below 1, found 1.0 for all of "
            f"{', '.join(scheme.names)}; lower the rate or set missing.empty: skip"
        )
    return values


def _known(scheme: Scheme, given: tuple[str, ...], key: str) -> None:
    for name in given:
        if name not in scheme.names:
            raise ConfigError(
                f"{key}: expected modalities of the data set ({', '.join(scheme.names)}), found '{name}'; "
                "correct the name"
            )


def bernoulli(rate: FloatArray, exists: BoolArray, stream: np.random.Generator, *, redraw: bool) -> BoolArray:
    """bool [N, M]: each existing modality is kept with probability ``1 - rate[m]``, independently (``rate`` [M],
    ``exists`` bool [N, M]).

    ``redraw`` conditions each row on keeping at least one, which is the distribution of drawing again until one is
    kept, without a loop and without a row's mask depending on other rows: while nothing is kept yet, modality m is
    kept with probability (1 - r_m) / (1 - product of r_j over j >= m). A row in which nothing exists stays empty.
    """
    uniform = stream.random(exists.shape)
    absent = np.where(exists, rate, 1.0)
    if not redraw:
        return np.asarray(uniform >= absent)
    remaining = np.cumprod(absent[:, ::-1], axis=1)[:, ::-1]  # probability that none from m onwards is kept
    kept = np.zeros(exists.shape, dtype=np.bool_)
    for m in range(exists.shape[1]):
        first = (1 - absent[:, m]) / np.maximum(1 - remaining[:, m], np.finfo(np.float64).tiny)
        keep = np.where(kept.any(axis=1), 1 - absent[:, m], first)
        kept[:, m] = uniform[:, m] < keep
    return kept


def one_of(exists: BoolArray, stream: np.random.Generator) -> BoolArray:
    """bool [N, M]: exactly one existing modality per row, drawn uniformly; none where none exists."""
    uniform = np.where(exists, stream.random(exists.shape), -1.0)
    chosen = np.arange(exists.shape[1]) == uniform.argmax(axis=1)[:, None]
    return np.asarray(chosen & exists)


def sample_masks(scheme: Scheme, exists: BoolArray, draw: int = 0) -> BoolArray:
    """bool [N, M]: the masks of the levels that concern single samples: ``sample`` (Bernoulli), ``coupled`` (one
    modality each) and ``none``. ``exists`` bool [N, M]; ``draw`` numbers independent masks of the same samples.

    With ``empty: skip`` or ``allow`` rows may be all False; what then happens is the caller's.
    """
    stream = scheme.stream("sample", draw)
    if scheme.missing.level == "sample":
        return bernoulli(rates(scheme), exists, stream, redraw=scheme.empty == "redraw")
    if scheme.missing.level == "coupled":
        return one_of(exists, stream)
    return exists


def site_masks(scheme: Scheme, exists: BoolArray) -> BoolArray:
    """bool [S, M]: one mask per site, fixed for all rounds, for the levels ``site`` (Bernoulli) and ``profile`` (sites
    in the order of the list). ``exists`` bool [S, M]: which modalities the site's samples really have."""
    if scheme.missing.level == "profile":
        return profile_masks(scheme, len(exists)) & exists
    return bernoulli(rates(scheme), exists, scheme.stream("site"), redraw=scheme.empty == "redraw")


def profile_masks(scheme: Scheme, sites: int) -> BoolArray:
    """bool [S, M]: the profiles of the config in the order of the list; ``ConfigError`` for an unknown modality or
    where they do not name exactly ``sites`` sites."""
    profiles = scheme.missing.profile
    for index, profile in enumerate(profiles):
        _known(scheme, profile.modalities, f"{scheme.key}.profile.{index}.modalities")
    counts = [profile.sites for profile in profiles]
    if sum(counts) != sites:
        raise ConfigError(
            f"{scheme.key}.profile: expected {sites} sites (sites.count), found {sum(counts)}; "
            "correct the profile's sites"
        )
    masks = np.array([[name in profile.modalities for name in scheme.names] for profile in profiles], dtype=np.bool_)
    return np.repeat(masks, counts, axis=0)


def effective_rates(present: BoolArray, names: tuple[str, ...]) -> dict[str, float]:
    """Modality -> share of the rows of ``present`` (bool [N, M]) that lack it; 0.0 where there is no row."""
    if not len(present):
        return dict.fromkeys(names, 0.0)
    return {name: float(1 - share) for name, share in zip(names, present.mean(axis=0), strict=True)}
