"""Allocation of a run: the samples of each site and their presence masks, computed once by the server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrecon_core.config import MissingTest, RunConfig
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.data.missingness import Scheme, Traits, effective_rates, known_names, sample_masks, site_masks
from fedrecon_core.data.partitions.base import Partition
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.registry import PARTITIONS
from fedrecon_core.seeding import derive, numpy_stream
from fedrecon_core.types import SPLITS

SERVER = "server"
SITE_LEVELS = ("site", "profile")
"""Levels of missingness at which a site lacks a modality for all of its samples."""


@dataclass(frozen=True)
class Share:
    """The samples of one site, or of the server: ``samples`` int64 [N] are indices into the data set (repeats are
    allowed), ``present`` bool [N, M] their presence masks, which include real missingness."""

    samples: IntArray
    present: BoolArray


@dataclass(frozen=True)
class Allocation:
    """The shares of a run.

    ``train`` maps every site's name to its share, which may be empty. ``validation`` and ``test`` have the single key
    ``server`` if the server evaluates, else the site names. ``test`` repeats the samples ``missing.test.draws`` times
    in blocks: all samples under the first masks, then all under the second, and so on. Samples that show nothing are
    left out unless ``missing.empty`` is ``allow``.

    ``effective_rates`` maps split and modality to the share of the allocated samples that lack the modality.
    ``partition_sha256`` and ``mask_sha256`` are taken over the sites in sorted order, of the samples' ids and of their
    masks. ``left_out`` maps each split to the number of samples (in test: samples under a mask) that show nothing and
    were left out.
    """

    train: dict[str, Share]
    validation: dict[str, Share]
    test: dict[str, Share]
    effective_rates: dict[str, dict[str, float]]
    partition_sha256: str
    mask_sha256: str
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerData:
    """The server's own copy of the data, and the allocation of its samples to sites and splits."""

    dataset: Dataset
    allocation: Allocation


def site_name(index: int) -> str:
    """The stable name of the simulated site ``index``."""
    return f"site-{index:04d}"


def allocate(dataset: Dataset, config: RunConfig) -> Allocation:
    """Compute partition and masks of all three splits, from the config and its seed alone.

    Raises ``ConfigError`` or ``DataError``, naming the key, if the data set cannot be divided as the config asks.
    """
    for number, split in enumerate(SPLITS):
        if not (dataset.split == number).any():
            raise DataError(
                f"{dataset.spec.name}: expected samples in each of the splits {', '.join(SPLITS)}, found none in "
                f"{split}; prepare or import the data with a {split} split"
            )
    refuse_partly_hidden(dataset, config)
    if dataset.sites:
        _check_site_folders(dataset, config)
    allocator = _Allocator(dataset, config)
    shares = {split: allocator.shares(split) for split in SPLITS}
    draws = {"train": 1, "validation": 1, "test": config.missing.test.draws}
    left_out = {
        split: draws[split] * len(allocator.members[split]) - sum(len(share.samples) for share in places.values())
        for split, places in shares.items()
    }
    shares["train"] = _only_training_sites(shares["train"], config)
    masks = {split: np.concatenate([share.present for share in places.values()]) for split, places in shares.items()}
    return Allocation(
        train=shares["train"],
        validation=shares["validation"],
        test=shares["test"],
        effective_rates={split: effective_rates(mask, dataset.spec.names) for split, mask in masks.items()},
        partition_sha256=_digest(shares, lambda share: dataset.ids[share.samples].astype("<i8").tobytes()),
        mask_sha256=_digest(shares, lambda share: share.present.astype(np.uint8).tobytes()),
        left_out=left_out,
    )


def refuse_partly_hidden(dataset: Dataset, config: RunConfig) -> None:
    """Raise ``ConfigError`` if absent values would reach a model through values that are shown.

    This happens if a mask may hide some training values of a natural id and show others, in a modality of
    ``dataset.normalised_by_natural_id``.
    """
    level = config.missing.train.level
    if not dataset.normalised_by_natural_id or level == "none":
        return
    names = " and ".join(dataset.normalised_by_natural_id)
    why = f"each {names} value of {dataset.spec.name} is normalized by all training values of its natural id"
    if level not in SITE_LEVELS:
        raise ConfigError(
            f"missing.train.level: expected none or {' or '.join(SITE_LEVELS)}, since {why}, including hidden ones, "
            f"found {level}; use data.protocol: default"
        )
    partition = config.data.partition.name
    if not PARTITIONS.get(partition).keeps_natural_ids:
        raise ConfigError(
            f"data.partition: expected natural with missing.train.level {level}, since {why}, including those hidden "
            f"at another site, found {partition}; set it to natural, or use data.protocol: default"
        )


def _check_site_folders(dataset: Dataset, config: RunConfig) -> None:
    """Refuse keys that would divide the samples of existing sites again."""
    count, partition = len(dataset.sites), config.data.partition.name
    if config.sites.count != count:
        raise ConfigError(f"sites.count: expected {count}, the number of site folders, found {config.sites.count}")
    if partition != "iid":
        raise ConfigError(
            f"data.partition: expected none, since the site folders already divide the data, found {partition}; "
            "leave it out"
        )
    if config.missing.train.level == "coupled":
        raise ConfigError(
            "missing.train.level: coupled assigns samples to sites, but the site folders already contain theirs; "
            "choose another level"
        )


def _digest(shares: Mapping[str, Mapping[str, Share]], content: Callable[[Share], bytes]) -> str:
    sha = hashlib.sha256()
    for split in SPLITS:
        for place in sorted(shares[split]):
            share = shares[split][place]
            sha.update(f"{split}/{place}:{len(share.samples)}\n".encode())
            sha.update(content(share))
    return sha.hexdigest()


def _only_training_sites(shares: dict[str, Share], config: RunConfig) -> dict[str, Share]:
    """The shares, without the samples of sites outside ``sites.training``; the other shares keep their masks."""
    chosen = config.sites.training
    if chosen is None:
        return shares
    if chosen == "complete":
        chosen = tuple(name for name, share in shares.items() if share.present.any(axis=0).all())
    known_names(chosen, tuple(shares), "sites.training", "sites")
    if not any(len(shares[name].samples) for name in chosen):
        found = ", ".join(chosen) or "none that has every modality"
        raise DataError(
            f"sites.training: expected sites with training samples, found {found}; name a site that has some, or lower "
            "the rate of missing.train"
        )
    empty = Share(np.zeros(0, dtype=np.int64), next(iter(shares.values())).present[:0])
    return {name: share if name in set(chosen) else empty for name, share in shares.items()}


class _Allocator:
    """Divides one data set by one config. ``members`` maps each split to its sample indices, int64 [N].

    ``train_owner`` int64 [N] is the site of each training sample; ``train_masks`` bool [S, M] are the masks of the
    sites at the levels that fix them per site, else None.
    """

    def __init__(self, dataset: Dataset, config: RunConfig) -> None:
        self.dataset, self.config = dataset, config
        self.partition: Partition = PARTITIONS.get(config.data.partition.name)()
        self.sites: Sequence[str] = dataset.sites or [site_name(index) for index in range(config.sites.count)]
        self.exists = dataset.exists()
        self.members = {split: dataset.members(number) for number, split in enumerate(SPLITS)}
        self.train_owner, self.train_masks = self.divide_training()

    def divide_training(self) -> tuple[IntArray, BoolArray | None]:
        """``train_owner`` and ``train_masks``."""
        members, level = self.members["train"], self.config.missing.train.level
        if level == "coupled":
            return self.divide_coupled()
        if self.dataset.owner is None:
            owner = self.assign(members, self.config.sites.count, "")
        else:
            owner = self.dataset.owner[members]
        return owner, self.draw_site_masks("train", owner) if level in SITE_LEVELS else None

    def assign(self, members: IntArray, sites: int, kind: str) -> IntArray:
        """int64 [n]: the site, 0 to ``sites - 1``, of each of ``members`` under the config's partition. ``kind`` names
        the kind of site in the seed and in error messages."""
        seed = derive(self.config.seed, "partition", kind)
        labels, natural_ids = self.dataset.strata()[members], self.dataset.natural_ids[members]
        try:
            return self.partition.assign(self.config.data.partition, labels, natural_ids, sites, seed)
        except DataError as error:
            raise DataError(f"{error} (sites of kind {kind})" if kind else str(error)) from None

    def divide_coupled(self) -> tuple[IntArray, BoolArray]:
        """Couple modalities with classes: a site of kind m has only modality m, and only classes of the m-th block. The
        last ``complete_sites`` sites have a random share ``pairs`` of all samples, with every modality."""
        self.check_coupled()
        config, members, names = self.config, self.members["train"], self.dataset.spec.names
        keys, count = config.missing.train, config.sites.count
        simple = count - keys.complete_sites
        blocks = np.array_split(np.arange(len(self.dataset.spec.classes)), len(names))
        block_of_class = np.repeat(np.arange(len(names)), [len(block) for block in blocks])
        kind = block_of_class[self.dataset.labels[members]]
        shuffled = numpy_stream(config.seed, "coupled", "pairs").permutation(len(members))
        kind[shuffled[: round(keys.pairs * len(members))]] = len(names)
        sites_of_kind = [np.arange(m, simple, len(names)) for m in range(len(names))] + [np.arange(simple, count)]
        owner = np.empty(len(members), dtype=np.int64)
        for number, (label, sites) in enumerate(zip((*names, "complete"), sites_of_kind, strict=True)):
            chosen = np.flatnonzero(kind == number)
            if len(chosen):
                owner[chosen] = sites[self.assign(members[chosen], len(sites), label)]
        masks = np.ones((count, len(names)), dtype=np.bool_)
        masks[:simple] = np.arange(simple)[:, None] % len(names) == np.arange(len(names))
        return owner, masks

    def check_coupled(self) -> None:
        """Raise ``ConfigError`` if data set, sites or partition do not allow the level ``coupled``."""
        spec, config = self.dataset.spec, self.config
        if self.partition.fixed_sites(config.data.partition, self.dataset.natural_ids):
            raise ConfigError(
                "missing.train.level: coupled needs a partition that divides among any number of sites, found "
                f"data.partition {config.data.partition.name}; choose another level or partition"
            )
        if spec.target == "multilabel":
            raise ConfigError(
                "missing.train.level: coupled assigns blocks of classes to sites, expected data with one class per "
                f"sample, found the multilabel {spec.name}; use another level"
            )
        kinds, complete = len(spec.names), config.missing.train.complete_sites
        if config.sites.count - complete < kinds:
            raise ConfigError(
                f"sites.count: missing.train.level coupled needs a site for each of the {kinds} modalities and "
                f"{complete} complete ones, expected at least {kinds + complete}, found {config.sites.count}; raise it"
            )
        if len(spec.classes) < kinds:
            raise ConfigError(
                f"missing.train.level: coupled needs a block of classes for each modality, expected at least {kinds} "
                f"classes, found {len(spec.classes)}; use fewer modalities or another level"
            )

    def scheme(self, split: str) -> Scheme:
        """The missingness of ``split``."""
        spec, missing = self.dataset.spec, self.config.missing
        return Scheme(
            getattr(missing, split), missing.empty, spec.names, split, self.config.seed, tuple(self.sites), spec.classes
        )

    def draw_site_masks(self, split: str, owner: IntArray, draw: int = 0) -> BoolArray:
        """bool [S, M]: new masks of the sites for ``split``, whose samples belong to the sites ``owner`` (int64 [N]). A
        modality that none of a site's samples has is not drawn."""
        sites, columns = self.config.sites.count, self.exists[self.members[split]].T
        exists = np.stack([np.bincount(owner, weights=column, minlength=sites) > 0 for column in columns], axis=1)
        exists[np.bincount(owner, minlength=sites) == 0] = True
        return site_masks(self.scheme(split), exists, draw)

    def shares(self, split: str) -> dict[str, Share]:
        """The share of each site, or of the server, in ``split``; in test every sample occurs once per draw."""
        members, missing = self.members[split], getattr(self.config.missing, split)
        draws = missing.draws if isinstance(missing, MissingTest) else 1
        if split == "train":
            owner, places = self.train_owner, self.sites
        elif self.config.evaluate.where == "sites":
            owner, places = self.held_out_owner(split), self.sites
        else:
            owner, places = np.zeros(len(members), dtype=np.int64), [SERVER]
        exists = self.exists[members]
        if split == "train" and self.train_masks is not None:
            drawn = [self.train_masks[owner] & exists]
        elif split == "train" or missing.level not in SITE_LEVELS:
            traits, scheme = Traits(owner, self.dataset.labels[members]), self.scheme(split)
            drawn = [sample_masks(scheme, exists, draw, traits) for draw in range(draws)]
        elif missing.independent or self.train_masks is None:  # the draws differ only where masks are independent
            masks = [self.draw_site_masks(split, owner, draw if missing.independent else 0) for draw in range(draws)]
            drawn = [mask[owner] & exists for mask in masks]
        else:
            _check_keeps_training_masks(self.config, split)
            drawn = [self.train_masks[owner] & exists] * draws
        samples, present, owner = np.tile(members, draws), np.concatenate(drawn), np.tile(owner, draws)

        kept = np.arange(len(samples)) if self.config.missing.empty == "allow" else np.flatnonzero(present.any(axis=1))
        if not len(kept):
            sample = "training" if split == "train" else split
            raise DataError(
                f"missing.{split}: expected a {sample} sample with a modality, found none; lower "
                f"missing.{split}.rate or set missing.empty: redraw"
            )
        order = kept[np.argsort(owner[kept], kind="stable")]
        borders = np.searchsorted(owner[order], np.arange(len(places) + 1))
        samples, present = samples[order], present[order]
        return {
            place: Share(samples[start:stop], present[start:stop])
            for place, start, stop in zip(places, borders[:-1], borders[1:], strict=True)
        }

    def held_out_owner(self, split: str) -> IntArray:
        """int64 [N]: the site of each sample of ``validation`` or ``test``.

        Sites get equal random shares, unless the partition goes by natural ids. Then a sample follows its id: to the
        site that trains on the id (the first one, if a level of missingness has split the id), or, where the
        partition divides an id among several sites, to the site of a random training sample of the id. Ids that are not
        in training go to random sites as a whole, to the same one in validation and test.
        """
        dataset, members, sites = self.dataset, self.members[split], self.config.sites.count
        if dataset.owner is not None:
            return dataset.owner[members]
        rng = numpy_stream(self.config.seed, "spread", split)
        if not (self.partition.keeps_natural_ids or self.partition.follows_natural_ids):
            return rng.permutation(len(members)) % sites

        known = np.unique(dataset.natural_ids[members])
        site_of_new = rng.permutation(len(known)) % sites
        if split == "test":
            earlier = np.unique(dataset.natural_ids[self.members["validation"]])
            earlier_rng = numpy_stream(self.config.seed, "spread", "validation")
            earlier_site = earlier_rng.permutation(len(earlier)) % sites
            _, here, there = np.intersect1d(known, earlier, assume_unique=True, return_indices=True)
            site_of_new[here] = earlier_site[there]
        place = np.searchsorted(known, dataset.natural_ids[members])

        train_ids = dataset.natural_ids[self.members["train"]]
        trained, counts = np.unique(train_ids, return_counts=True)
        owner_by_id = self.train_owner[np.argsort(train_ids, kind="stable")]
        position = np.minimum(np.searchsorted(trained, known), len(trained) - 1)[place]
        chosen = (np.cumsum(counts) - counts)[position]
        if self.partition.follows_natural_ids:
            chosen = chosen + (rng.random(len(members)) * counts[position]).astype(np.int64)
        return np.asarray(np.where(trained[position] == known[place], owner_by_id[chosen], site_of_new[place]))


def _check_keeps_training_masks(config: RunConfig, split: str) -> None:
    """Raise ``ConfigError`` if ``split`` requests other masks than those that the sites keep from training."""
    train, missing = config.missing.train, getattr(config.missing, split)
    keep = "the sites keep their training masks, expected"
    hint = f"set missing.{split}.level: sample, or set missing.{split}.independent: true for separate masks"
    if missing.level == "profile" and missing.profile != train.profile:
        raise ConfigError(
            f"missing.{split}.profile: {keep} missing.train.profile, found another list; repeat that list, {hint}"
        )
    if missing.level == "site" and missing.rate not in (0.0, train.rate if train.level == "site" else 0.0):
        raise ConfigError(
            f"missing.{split}.rate: {keep} no rate or missing.train.rate, found {missing.rate}; leave it out, {hint}"
        )
    if missing.sites and missing.sites != train.sites:
        raise ConfigError(
            f"missing.{split}.sites: {keep} no rates of sites or missing.train.sites, found others; leave them out, "
            f"{hint}"
        )
