"""Presence masks: which sample shows which modality, in a split, under the config's level and rate.

A mask depends only on the config's missingness, the run's seed, the position of the sample (or site) and the modalities
that really exist; never on a value of an array, the recovery or the strategy. It depends on a sample's site where the
config sets a rate for that site (``sites``). It depends on a label only where the config sets rates by class
(``classes``), which is missingness not at random. Row i of a draw depends on no other row, so that the masks of the
first samples (or sites) stay the same when more are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedrecon_core.config import Missing, Rate
from fedrecon_core.data.dataset import BoolArray, IntArray
from fedrecon_core.errors import ConfigError
from fedrecon_core.seeding import numpy_stream

FloatArray = NDArray[np.float64]
Empty = Literal["redraw", "skip", "allow"]


@dataclass(frozen=True)
class Scheme:
    """The missingness of one ``split``: its config ``missing``, the rule for samples or sites that would keep nothing
    (``empty``), the modality ``names`` in the order of the mask's columns, the run's ``seed``, and the names of the
    ``sites`` and ``classes`` for which the config may set rates."""

    missing: Missing
    empty: Empty
    names: tuple[str, ...]
    split: str
    seed: int
    sites: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The config key that error messages name."""
        return f"missing.{self.split}"

    def stream(self, *purpose: str | int) -> np.random.Generator:
        """The random stream of one draw of this split."""
        return numpy_stream(self.seed, "missing", self.split, *purpose)


@dataclass(frozen=True)
class Traits:
    """Traits of samples on which their rates may depend: ``owner`` int64 [N], the position of the site in the scheme's
    ``sites``, and ``labels`` int64 [N] (multilabel: zeros and ones [N, C])."""

    owner: IntArray
    labels: IntArray


def rates(scheme: Scheme) -> FloatArray:
    """float64 [M]: the probability that each modality is absent; 0 for modalities that a mapping leaves out.

    Raises ``ConfigError`` for an unknown modality, and if ``redraw`` could never keep anything.
    """
    return _rates(scheme, scheme.missing.rate, f"{scheme.key}.rate")


def _rates(scheme: Scheme, rate: Rate, key: str) -> FloatArray:
    """float64 [M]: the rates that the config sets under ``key``."""
    if isinstance(rate, dict):
        known_names(tuple(rate), scheme.names, key, "modalities of the data set")
        values = np.array([rate.get(name, 0.0) for name in scheme.names], dtype=np.float64)
    else:
        values = np.full(len(scheme.names), rate, dtype=np.float64)
    if (values >= 1).all():
        _refuse_all_absent(scheme, key, "")
    return values


def _refuse_all_absent(scheme: Scheme, key: str, where: str) -> None:
    """Raise ``ConfigError`` if rates of 1.0 for all modalities leave nothing for ``redraw`` to keep."""
    if scheme.empty == "redraw":
        raise ConfigError(
            f"{key}: with missing.empty: redraw at least one modality needs a rate below 1, found 1.0 for all of "
            f"{', '.join(scheme.names)}{where}; lower the rate or set missing.empty: skip"
        )


def known_names(given: tuple[str, ...], known: tuple[str, ...], key: str, what: str) -> None:
    """Raise ``ConfigError`` for the first of ``given`` that is not in ``known``; the message lists known names."""
    listed = ", ".join(islice(known, 8)) + (f", ... {len(known)} in all" if len(known) > 8 else "")
    known_set = set(known)
    for name in given:
        if name not in known_set:
            raise ConfigError(f"{key}: expected {what} ({listed}), found '{name}'; correct the name")


def site_rates(scheme: Scheme) -> FloatArray:
    """float64 [S, M]: the rates of each of the scheme's ``sites``, which default to ``rate``.

    Raises ``ConfigError`` as ``rates`` does, and for an unknown site.
    """
    given, key = scheme.missing.sites, f"{scheme.key}.sites"
    known_names(tuple(given), scheme.sites, key, "sites of the run")
    found = np.tile(rates(scheme), (len(scheme.sites), 1))
    position = {name: index for index, name in enumerate(scheme.sites)}
    for name, rate in given.items():
        found[position[name]] = _rates(scheme, rate, f"{key}.{name}")
    return found


def class_rates(scheme: Scheme) -> FloatArray:
    """float64 [C, M]: the rates that the config sets for samples of each class; NaN for classes without rates.

    Raises ``ConfigError`` as ``rates`` does, and for an unknown class.
    """
    given, key = scheme.missing.classes, f"{scheme.key}.classes"
    known_names(tuple(given), scheme.classes, key, "classes of the data set")
    found = np.full((len(scheme.classes), len(scheme.names)), np.nan)
    for name, rate in given.items():
        found[scheme.classes.index(name)] = _rates(scheme, rate, f"{key}.{name}")
    return found


def sample_rates(scheme: Scheme, traits: Traits) -> FloatArray:
    """float64 [N, M], or [M] where all samples have the same: the rates of each sample at level ``sample``.

    The rates of the sample's class take precedence, then those of its site, then ``rate``. A sample of several classes
    has, per modality, the highest rate of its classes; a sample without a class has the rates of its site. Raises
    ``ConfigError`` as ``site_rates`` and ``class_rates`` do.
    """
    base = site_rates(scheme)[traits.owner] if scheme.missing.sites else rates(scheme)
    if not scheme.missing.classes:
        return base
    by_class = class_rates(scheme)
    if traits.labels.ndim == 1:
        own = by_class[traits.labels]
        return np.where(np.isnan(own), base, own)
    found = np.full((len(traits.labels), len(scheme.names)), -1.0)
    for label, own in enumerate(by_class):
        rated = np.maximum(found, np.where(np.isnan(own), base, own))
        found = np.where(traits.labels[:, label, None] > 0, rated, found)
    found = np.where(found < 0, base, found)
    if (found >= 1).all(axis=1).any():
        _refuse_all_absent(scheme, f"{scheme.key}.classes", " in a sample of several classes")
    return found


def bernoulli(rate: FloatArray, exists: BoolArray, stream: np.random.Generator, *, redraw: bool) -> BoolArray:
    """bool [N, M]: keep each existing modality with probability ``1 - rate``, independently (``rate`` [M], or [N, M]
    with a rate per row; ``exists`` bool [N, M]).

    ``redraw`` conditions each row on keeping at least one modality. This is the distribution of drawing again until one
    is kept, without a loop and without a row's mask depending on other rows: while none is kept yet, modality m is kept
    with probability (1 - r_m) / (1 - product of r_j over j >= m). A row stays empty if no modality exists, or only
    modalities with a rate of 1.
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


def sample_masks(scheme: Scheme, exists: BoolArray, draw: int = 0, traits: Traits | None = None) -> BoolArray:
    """bool [N, M]: the masks of the levels that draw per sample: ``sample`` (Bernoulli), ``coupled`` (one modality
    each) and ``none``. ``exists`` bool [N, M]; ``draw`` numbers independent masks of the same samples; rates by site
    and class need the samples' ``traits``.

    With ``empty: skip`` or ``allow`` a row may be all False; the caller handles such rows.
    """
    stream = scheme.stream("sample", draw)
    if scheme.missing.level == "sample":
        rate = rates(scheme) if traits is None else sample_rates(scheme, traits)
        return bernoulli(rate, exists, stream, redraw=scheme.empty == "redraw")
    if scheme.missing.level == "coupled":
        return one_of(exists, stream)
    return exists


def site_masks(scheme: Scheme, exists: BoolArray, draw: int = 0) -> BoolArray:
    """bool [S, M]: one mask per site, fixed for all rounds, at the levels ``site`` (Bernoulli) and ``profile`` (sites
    in the order of the list, the same in each draw). ``exists`` bool [S, M]: the modalities that the site's samples
    really have; ``draw`` numbers independent masks of the same sites."""
    if scheme.missing.level == "profile":
        return profile_masks(scheme, len(exists)) & exists
    rate = site_rates(scheme) if scheme.missing.sites else rates(scheme)
    stream = scheme.stream("site", draw) if draw else scheme.stream("site")
    return bernoulli(rate, exists, stream, redraw=scheme.empty == "redraw")


def profile_masks(scheme: Scheme, sites: int) -> BoolArray:
    """bool [S, M]: the masks of the config's profiles, in the order of the list; ``ConfigError`` for an unknown
    modality or where the profiles do not add up to ``sites`` sites."""
    profiles = scheme.missing.profile
    for index, profile in enumerate(profiles):
        key = f"{scheme.key}.profile.{index}.modalities"
        known_names(profile.modalities, scheme.names, key, "modalities of the data set")
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
