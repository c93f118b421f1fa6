"""Contexts of the sections on the sites' data: which modalities each site lacks, and which classes it has."""

from __future__ import annotations

from dataclasses import dataclass

from server.report.run.sections import SiteRows
from server.runs.formatting import decimal
from server.runs.record import RunRecord, entries, mapping, number
from server.runs.summary import modalities

SPLITS = ("train", "validation", "test")
OWN_RATES = {"sites": "some sites their own", "classes": "some classes their own", "independent": "independent masks"}
"""Key of a split's missingness -> what the report adds if it is set."""


@dataclass(frozen=True)
class Missing:
    """``presence``: by site, the share of its training samples that have each of the ``modalities``; ``rates``: by
    split, the configured missingness and the effective rate of each modality; ``left_out``: by split, the samples
    without any modality."""

    shown: SiteRows
    modalities: list[str]
    presence: dict[str, list[float | None]]
    rates: dict[str, tuple[str, list[float | None]]]
    left_out: dict[str, float]


def missing(record: RunRecord) -> Missing | None:
    """Show the presence of each modality at the training sites, and configured and effective rates of the splits."""
    shown, effective = SiteRows.of(record), mapping(record.manifest.get("effective_missing"))
    rates = {split: mapping(effective.get(split)) for split in SPLITS}
    named = modalities(record)
    presence = {
        name: [number(mapping(site.get("modalities")).get(modality)) for modality in named]
        for name, site in shown.described(record).items()
        if named
    }
    named = named or list(dict.fromkeys(modality for split in SPLITS for modality in rates[split]))
    table = {split: (_configured(record, split), [number(rates[split].get(m)) for m in named]) for split in SPLITS}
    if not presence and not any(rates.values()):
        return None
    skipped = mapping(record.manifest.get("left_out"))
    left_out = {split: count for split in SPLITS if (count := number(skipped.get(split)))}
    return Missing(shown, named, presence, table if any(rates.values()) else {}, left_out)


def _configured(record: RunRecord, split: str) -> str:
    """Return the configured level and rate of a split, such as ``site 0.5``."""
    level, rate = record.setting(f"missing.{split}.level"), number(record.setting(f"missing.{split}.rate"))
    if level in (None, "none"):
        return "none"
    if level in ("profile", "coupled"):
        return str(level)
    own = [text for key, text in OWN_RATES.items() if record.setting(f"missing.{split}.{key}")]
    return ", ".join([f"{level} {decimal(rate) if rate is not None else 'by modality'}", *own])


@dataclass(frozen=True)
class Classes:
    """By site, the number of training samples of each class; ``most``: the largest of them."""

    shown: SiteRows
    names: list[str]
    counts: dict[str, list[float | None]]
    most: float


def classes(record: RunRecord) -> Classes | None:
    """Show how many samples of each class each site has."""
    shown = SiteRows.of(record)
    counts = {
        name: [number(value) for value in entries(site.get("classes"))]
        for name, site in shown.described(record).items()
    }
    most = max((value or 0.0 for row in counts.values() for value in row), default=0.0)
    if most <= 0:
        return None
    wide = max(map(len, counts.values()))
    names = [str(name) for name in entries(record.manifest.get("classes"))][:wide]
    return Classes(shown, names + [str(place) for place in range(len(names), wide)], counts, most)
