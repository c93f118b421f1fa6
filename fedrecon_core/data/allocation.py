"""Who holds which samples under which masks: the whole of a run's data heterogeneity, computed once by the server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrecon_core.config import Missing, MissingHeldOut, MissingTest, RunConfig
from fedrecon_core.data.dataset import BoolArray, Dataset, IntArray
from fedrecon_core.data.missingness import Scheme, Traits, effective_rates, known_names, sample_masks, site_masks
from fedrecon_core.data.partitions.base import Partition
from fedrecon_core.errors import ConfigError, DataError
from fedrecon_core.registry import PARTITIONS
from fedrecon_core.seeding import derive, numpy_stream
from fedrecon_core.types import SPLITS

SERVER = "server"
WHOLE = ("site", "profile")
"""Levels at which a site lacks a modality for all of its samples."""


@dataclass(frozen=True)
class Share:
    """The ``samples`` (int64 [N], indices into the data set, repeats allowed) that one place holds, with their
    presence masks ``present`` (bool [N, M]); real missingness is already in them."""

    samples: IntArray
    present: BoolArray


@dataclass(frozen=True)
class Allocation:
    """The shares of a run.

    ``train`` has every site's share under its name; a site may hold nothing. ``validation`` and ``test`` have the one
    key ``server`` where the server evaluates, else the site names. In ``test`` the samples come ``missing.test.draws``
    times in blocks (all samples under the first masks, then all under the second, ...). Samples that show nothing are
    left out unless ``missing.empty`` is ``allow``. ``effective_rates`` is split -> modality -> share of the samples
    held that lack it. The two SHA-256 are over the site names in sorted order with the samples' ids, and their masks.
    ``left_out`` is split -> how many samples (of test: samples under a mask) show nothing and are held by no one.
    """

    train: dict[str, Share]
    validation: dict[str, Share]
    test: dict[str, Share]
    effective_rates: dict[str, dict[str, float]]
    partition_sha256: str
    mask_sha256: str
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Training:
    """Which site holds each training sample (int64 [N]) and, at the levels that fix it, the sites' masks [S, M]."""

    members: IntArray
    owner: IntArray
    masks: BoolArray | None


def site_name(index: int) -> str:
    """The stable name of the simulated site ``index``."""
    return f"site-{index:04d}"


def allocate(dataset: Dataset, config: RunConfig) -> Allocation:
    """Partition and masks of all three splits, from the config and its seed alone.

    Raises ``ConfigError`` or ``DataError`` naming the key where the data set cannot be shared out as asked.
    """
    _refuse_empty_splits(dataset)
    refuse_partly_hidden(dataset, config)
    if dataset.sites:
        _check_own_sites(dataset, config)
    training = _training(dataset, config)
    shares = {"train": _train_shares(dataset, config, training)}
    for split in ("validation", "test"):
        shares[split] = _held_out_shares(dataset, config, split, training)
    left_out = {split: _left_out(dataset, config, split, shares[split]) for split in SPLITS}
    shares["train"] = _those_that_train(shares["train"], config)
    names = dataset.spec.names
    return Allocation(
        train=shares["train"],
        validation=shares["validation"],
        test=shares["test"],
        effective_rates={
            split: effective_rates(np.concatenate([share.present for share in places.values()]), names)
            for split, places in shares.items()
        },
        partition_sha256=_digest(shares, lambda share: dataset.ids[share.samples].astype("<i8").tobytes()),
        mask_sha256=_digest(shares, lambda share: share.present.astype(np.uint8).tobytes()),
        left_out=left_out,
    )


def refuse_partly_hidden(dataset: Dataset, config: RunConfig) -> None:
    """``ConfigError`` where absent values would reach a model through those that are shown: where a mask may hide some
    of a natural id's training values in ``dataset.normalised_by_natural_id`` and show others."""
    level = config.missing.train.level
    if not dataset.normalised_by_natural_id or level == "none":
        return
    names = " and ".join(dataset.normalised_by_natural_id)
    why = f"each {names} value of {dataset.spec.name} is normalised by all training values of its natural id"
    if level not in WHOLE:
        raise ConfigError(
            f"missing.train.level: expected none or {' or '.join(WHOLE)}, since {why}, hidden ones too, found {level}; "
            "use data.protocol: default"
        )
    partition = config.data.partition.name
    if not PARTITIONS.get(partition).keeps_natural_ids:
        raise ConfigError(
            f"data.partition: expected natural with missing.train.level {level}, since {why}, those hidden at "
            f"another site too, found {partition}; set it to natural, or use data.protocol: default"
        )


def _left_out(dataset: Dataset, config: RunConfig, split: str, places: Mapping[str, Share]) -> int:
    draws = config.missing.test.draws if split == "test" else 1
    return draws * len(dataset.members(SPLITS.index(split))) - sum(len(share.samples) for share in places.values())


def _refuse_empty_splits(dataset: Dataset) -> None:
    for number, split in enumerate(SPLITS):
        if not (dataset.split == number).any():
            raise DataError(
                f"{dataset.spec.name}: expected samples in each of the splits {', '.join(SPLITS)}, found none in "
                f"{split}; prepare or import the data with a {split} split"
            )


def _digest(shares: Mapping[str, Mapping[str, Share]], content: Callable[[Share], bytes]) -> str:
    sha = hashlib.sha256()
    for split in SPLITS:
        for place in sorted(shares[split]):
            share = shares[split][place]
            sha.update(f"{split}/{place}:{len(share.samples)}\n".encode())
            sha.update(content(share))
    return sha.hexdigest()


def _scheme(dataset: Dataset, config: RunConfig, split: str) -> Scheme:
    missing: Missing = getattr(config.missing, split)
    spec, sites = dataset.spec, tuple(_sites(dataset, config))
    return Scheme(missing, config.missing.empty, spec.names, split, config.seed, sites, spec.classes)


def _partition(config: RunConfig) -> Partition:
    partition: Partition = PARTITIONS.get(config.data.partition.name)()
    return partition


def _assign(dataset: Dataset, config: RunConfig, members: IntArray, sites: int, kind: str) -> IntArray:
    """int64 [n]: the config's partition of ``members`` over ``sites``; ``kind`` names the part in seed and message."""
    seed = derive(config.seed, "partition", kind)
    labels, natural_ids = dataset.strata()[members], dataset.natural_ids[members]
    try:
        return _partition(config).assign(config.data.partition, labels, natural_ids, sites, seed)
    except DataError as error:
        raise DataError(f"{error} (sites of kind {kind})" if kind else str(error)) from None


def _training(dataset: Dataset, config: RunConfig) -> _Training:
    members = dataset.members(0)
    if config.missing.train.level == "coupled":
        return _coupled(dataset, config, members)
    if dataset.owner is None:
        owner = _assign(dataset, config, members, config.sites.count, "")
    else:
        owner = dataset.owner[members]
    masks = None
    if config.missing.train.level in ("site", "profile"):
        masks = _drawn_site_masks(dataset, config, "train", (members, owner))
    return _Training(members, owner, masks)


def _check_own_sites(dataset: Dataset, config: RunConfig) -> None:
    """Sites that exist are not dealt out again."""
    count = len(dataset.sites)
    if config.sites.count != count:
        raise ConfigError(f"sites.count: expected {count}, the number of site folders, found {config.sites.count}")
    if config.data.partition.name != "iid":
        found = config.data.partition.name
        raise ConfigError(
            f"data.partition: the site folders are the partition, expected none, found {found}; leave it out"
        )
    if config.missing.train.level == "coupled":
        raise ConfigError(
            "missing.train.level: coupled deals samples out, and the site folders hold theirs; choose another"
        )


def _coupled(dataset: Dataset, config: RunConfig, members: IntArray) -> _Training:
    """Modalities and classes go together: a site of kind m holds only modality m, of the m-th block of classes; the
    last ``complete_sites`` hold a random share ``pairs`` of all samples, complete."""
    keys, names, count = config.missing.train, dataset.spec.names, config.sites.count
    simple = count - keys.complete_sites
    _check_kinds(dataset, config)
    blocks = np.array_split(np.arange(len(dataset.spec.classes)), len(names))
    block_of = np.repeat(np.arange(len(names)), [len(block) for block in blocks])
    kind = block_of[dataset.labels[members]]
    shuffled = numpy_stream(config.seed, "coupled", "pairs").permutation(len(members))
    kind[shuffled[: round(keys.pairs * len(members))]] = len(names)
    seats = [np.arange(m, simple, len(names)) for m in range(len(names))] + [np.arange(simple, count)]
    owner = np.empty(len(members), dtype=np.int64)
    for number, (label, seat) in enumerate(zip((*names, "complete"), seats, strict=True)):
        chosen = np.flatnonzero(kind == number)
        if len(chosen):
            owner[chosen] = seat[_assign(dataset, config, members[chosen], len(seat), label)]
    masks = np.ones((count, len(names)), dtype=np.bool_)
    masks[:simple] = np.arange(simple)[:, None] % len(names) == np.arange(len(names))
    return _Training(members, owner, masks)


def _check_kinds(dataset: Dataset, config: RunConfig) -> None:
    partition = config.data.partition
    if _partition(config).fixed_sites(partition, dataset.natural_ids):
        raise ConfigError(
            f"missing.train.level: coupled deals to sites of each kind, expected a partition for any number of them, "
            f"found data.partition {partition.name}; choose another level or partition"
        )
    if dataset.spec.target == "multilabel":
        raise ConfigError(
            "missing.train.level: coupled deals out blocks of classes, expected data with one class per sample, found "
            f"the multilabel {dataset.spec.name}; use another level"
        )
    kinds, complete = len(dataset.spec.names), config.missing.train.complete_sites
    if config.sites.count - complete < kinds:
        raise ConfigError(
            f"sites.count: missing.train.level coupled needs a site for each of the {kinds} modalities beside the "
            f"{complete} complete ones, expected at least {kinds + complete}, found {config.sites.count}; raise it"
        )
    if len(dataset.spec.classes) < kinds:
        raise ConfigError(
            f"missing.train.level: coupled needs a block of classes for each modality, expected at least {kinds} "
            f"classes, found {len(dataset.spec.classes)}; use fewer modalities or another level"
        )


def _drawn_site_masks(
    dataset: Dataset, config: RunConfig, split: str, held: tuple[IntArray, IntArray], draw: int = 0
) -> BoolArray:
    """bool [S, M]: fresh masks of the sites, which hold the samples ``held`` (their indices, and the site of each); a
    modality that none of a site's samples really has is not drawn."""
    members, owner = held
    sites, columns = config.sites.count, dataset.exists()[members].T
    exists = np.stack([np.bincount(owner, weights=column, minlength=sites) > 0 for column in columns], axis=1)
    exists[np.bincount(owner, minlength=sites) == 0] = True
    return site_masks(_scheme(dataset, config, split), exists, draw)


def _train_shares(dataset: Dataset, config: RunConfig, training: _Training) -> dict[str, Share]:
    exists = dataset.exists()[training.members]
    if training.masks is None:
        traits = Traits(training.owner, dataset.labels[training.members])
        present = sample_masks(_scheme(dataset, config, "train"), exists, traits=traits)
    else:
        present = training.masks[training.owner] & exists
    shares = _grouped(config, training.members, present, training.owner, _sites(dataset, config))
    if not any(len(share.samples) for share in shares.values()):
        raise DataError(
            "missing.train: expected some training sample with a modality, found none at any site; "
            "lower missing.train.rate or set missing.empty: redraw"
        )
    return shares


def _those_that_train(shares: dict[str, Share], config: RunConfig) -> dict[str, Share]:
    """The shares of the sites in ``sites.training``, under the masks that they have anyway; all others hold nothing."""
    chosen = config.sites.training
    if chosen is None:
        return shares
    if chosen == "complete":
        chosen = tuple(name for name, share in shares.items() if share.present.any(axis=0).all())
    known_names(chosen, tuple(shares), "sites.training", "sites")
    if not any(len(shares[name].samples) for name in chosen):
        found, told = ", ".join(chosen) or "none that holds every modality", "name one that does, or lower the rate"
        raise DataError(f"sites.training: expected sites with training samples, found {found}; {told} of missing.train")
    nothing = Share(np.zeros(0, dtype=np.int64), next(iter(shares.values())).present[:0])
    trains = set(chosen)
    return {name: share if name in trains else nothing for name, share in shares.items()}


def _held_out_shares(dataset: Dataset, config: RunConfig, split: str, training: _Training) -> dict[str, Share]:
    """The shares of ``validation`` or ``test`` at the server or the sites, each sample once per draw."""
    members = dataset.members(SPLITS.index(split))
    missing: MissingHeldOut = getattr(config.missing, split)
    draws = missing.draws if isinstance(missing, MissingTest) else 1
    places: Sequence[str] = [SERVER]
    owner = np.zeros(len(members), dtype=np.int64)
    if config.evaluate.where == "sites":
        owner, places = _spread(dataset, config, split, training), _sites(dataset, config)
    if missing.level not in ("site", "profile"):
        exists, traits = dataset.exists()[members], Traits(owner, dataset.labels[members])
        scheme = _scheme(dataset, config, split)
        drawn = [sample_masks(scheme, exists, draw, traits) for draw in range(draws)]
    elif missing.independent or training.masks is None:
        drawn = _own_masks(dataset, config, split, owner, draws)
    else:
        _check_kept(config, split)
        drawn = [training.masks[owner] & dataset.exists()[members]] * draws
    shares = _grouped(config, np.tile(members, draws), np.concatenate(drawn), np.tile(owner, draws), places)
    if not any(len(share.samples) for share in shares.values()):
        raise DataError(
            f"missing.{split}: expected some {split} sample with a modality, found none; "
            f"lower missing.{split}.rate or set missing.empty: redraw"
        )
    return shares


def _own_masks(dataset: Dataset, config: RunConfig, split: str, owner: IntArray, draws: int) -> list[BoolArray]:
    """For each draw bool [N, M]: masks of the sites for this split alone. They are the same in each draw, unless they
    are asked for as independent."""
    members = dataset.members(SPLITS.index(split))
    fresh = getattr(config.missing, split).independent
    masks = [_drawn_site_masks(dataset, config, split, (members, owner), draw if fresh else 0) for draw in range(draws)]
    exists = dataset.exists()[members]
    return [mask[owner] & exists for mask in masks]


def _check_kept(config: RunConfig, split: str) -> None:
    """A site lacks in evaluation what it lacks in training: rates or a profile cannot ask for something else."""
    train, missing = config.missing.train, getattr(config.missing, split)
    told = f"or set missing.{split}.independent: true for masks of its own"
    keep = "the sites keep their training masks, expected"
    if missing.level == "profile" and missing.profile != train.profile:
        raise ConfigError(
            f"missing.{split}.profile: {keep} missing.train.profile, found another list; repeat that list, "
            f"set missing.{split}.level: sample, {told}"
        )
    if missing.level == "site" and missing.rate not in (0.0, train.rate if train.level == "site" else 0.0):
        raise ConfigError(
            f"missing.{split}.rate: {keep} no rate or missing.train.rate, found {missing.rate}; leave it out, "
            f"set missing.{split}.level: sample, {told}"
        )
    if missing.sites and missing.sites != train.sites:
        raise ConfigError(
            f"missing.{split}.sites: {keep} no rates of sites or missing.train.sites, found others; leave them out, "
            f"set missing.{split}.level: sample, {told}"
        )


def _spread(dataset: Dataset, config: RunConfig, split: str, training: _Training) -> IntArray:
    """int64 [N]: the site of each held-out sample: at random in equal shares, or, where the partition goes by natural
    ids, with its id, new ids being dealt whole, over validation and test together. Where an id lies at one site it is
    that one (the first, should a level of missingness have torn it), else that of a random training sample of the id.
    """
    members, sites = dataset.members(SPLITS.index(split)), config.sites.count
    if dataset.owner is not None:
        return dataset.owner[members]
    draw, partition = numpy_stream(config.seed, "spread", split), _partition(config)
    if not (partition.keeps_natural_ids or partition.follows_natural_ids):
        return draw.permutation(len(members)) % sites
    known, seats = _seats(dataset, split, sites, draw)
    if split == "test":  # an id that is new in validation too sits where it sits there
        earlier, taken = _seats(dataset, "validation", sites, numpy_stream(config.seed, "spread", "validation"))
        _, mine, theirs = np.intersect1d(known, earlier, assume_unique=True, return_indices=True)
        seats[mine] = taken[theirs]
    inverse = np.searchsorted(known, dataset.natural_ids[members])
    trained, counts = np.unique(dataset.natural_ids[training.members], return_counts=True)
    by_id = training.owner[np.argsort(dataset.natural_ids[training.members], kind="stable")]
    position = np.minimum(np.searchsorted(trained, known), len(trained) - 1)[inverse]
    seen = trained[position] == known[inverse]
    chosen = (np.cumsum(counts) - counts)[position]
    if partition.follows_natural_ids:
        chosen = chosen + (draw.random(len(members)) * counts[position]).astype(np.int64)
    return np.asarray(np.where(seen, by_id[chosen], seats[inverse]))


def _seats(dataset: Dataset, split: str, sites: int, draw: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The natural ids of a split, ascending, and the site that each gets where training does not know it."""
    known = np.unique(dataset.natural_ids[dataset.members(SPLITS.index(split))])
    return known, draw.permutation(len(known)) % sites


def _sites(dataset: Dataset, config: RunConfig) -> Sequence[str]:
    return dataset.sites or [site_name(index) for index in range(config.sites.count)]


def _grouped(
    config: RunConfig, samples: IntArray, present: BoolArray, owner: IntArray, places: Sequence[str]
) -> dict[str, Share]:
    """The share of each of ``places``: its samples in their given order, without those that show nothing."""
    kept = np.arange(len(samples)) if config.missing.empty == "allow" else np.flatnonzero(present.any(axis=1))
    order = kept[np.argsort(owner[kept], kind="stable")]
    borders = np.searchsorted(owner[order], np.arange(len(places) + 1))
    samples, present = samples[order], present[order]
    return {
        place: Share(samples[start:stop], present[start:stop])
        for place, start, stop in zip(places, borders[:-1], borders[1:], strict=True)
    }
