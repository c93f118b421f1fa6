"""The sections on who holds what: which modalities each site lacks, and which classes it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.charts import heat
from server.report.markup import Markup, joined, left, paragraph, table, tag
from server.report.run.rows import shown_sites, unshown
from server.runs.formatting import count, decimal, percent
from server.runs.record import RunRecord, entries, mapping, number
from server.runs.summary import modalities

SPLITS = ("train", "validation", "test")


def missing(record: RunRecord) -> Markup:
    """The missingness grid of the training sites, and asked and effective rates of the three splits."""
    grid, rates = _grid(record), _rates(record)
    if not grid and not rates:
        return Markup("")
    about = (
        "The share of a site's training samples that have each modality. A hatched field is a modality that the site "
        "lacks altogether."
    )
    return joined([paragraph(about, _left_out(record)), unshown(record), tag("div", grid, rates, class_="pair")])


def _left_out(record: RunRecord) -> str:
    """A sentence on samples that no one held, because they show nothing."""
    found = mapping(record.manifest.get("left_out"))
    told = [f"{count:.0f} of {split}" for split in SPLITS if (count := number(found.get(split)))]
    return f" Left out, since they show no modality: {', '.join(told)} (missing.empty)." if told else ""


def _grid(record: RunRecord) -> Markup:
    named, described = modalities(record), shown_sites(record)
    if not named or not described:
        return Markup("")
    rows = [[str(site["name"]), *(_presence(site, m) for m in named)] for site in described]
    grid = table("Share of samples that have each modality, by site", ["Site", *named], rows, "heats")
    return tag("div", tag("h3", "Presence in training"), grid)


def _presence(site: Mapping[str, Any], modality: str) -> Markup:
    share = number(mapping(site.get("modalities")).get(modality))
    return heat(share, percent(share, 0), f"{site['name']}, {modality}: {percent(share)} of its samples have it")


def _rates(record: RunRecord) -> Markup:
    effective = mapping(record.manifest.get("effective_missing"))
    named = modalities(record) or list(dict.fromkeys(m for split in SPLITS for m in mapping(effective.get(split))))
    if not any(mapping(effective.get(split)) for split in SPLITS):
        return Markup("")
    rows = [
        [
            split.capitalize(),
            tag("td", _asked(record, split), class_="text"),
            *_shares(mapping(effective.get(split)), named),
        ]
        for split in SPLITS
    ]
    head = ["Split", left("Configured"), *named]
    shown = table("Missing rates by split and modality: configured and effective", head, rows)
    return tag("div", tag("h3", "Effective missing rates"), shown)


def _shares(rates: Mapping[str, Any], named: list[str]) -> list[str]:
    return [percent(number(rates.get(modality)), 0) for modality in named]


def _asked(record: RunRecord, split: str) -> str:
    """The configured level and rate, as ``site 0.5``."""
    level, rate = record.setting(f"missing.{split}.level"), record.setting(f"missing.{split}.rate")
    if level in (None, "none"):
        return "none"
    if level in ("profile", "coupled"):
        return str(level)
    own = [word for key, word in _OWN_RATES.items() if record.setting(f"missing.{split}.{key}")]
    return ", ".join([f"{level} {decimal(number(rate)) if number(rate) is not None else 'by modality'}", *own])


_OWN_RATES = {"sites": "some sites their own", "classes": "some classes their own", "independent": "independent masks"}
"""Key of a split's missingness -> what the report says where it is set."""


def classes(record: RunRecord) -> Markup:
    """How many samples of each class each site holds."""
    described = shown_sites(record)
    counts = [[number(value) for value in entries(site.get("classes"))] for site in described]
    most = max((value or 0.0 for row in counts for value in row), default=0.0)
    if most <= 0:
        return Markup("")
    wide = max(map(len, counts))
    named = [str(name) for name in entries(record.manifest.get("classes"))]
    named += [str(place) for place in range(len(named), wide)]
    rows = [
        [str(site["name"]), *(_held(str(site["name"]), named[place], value, most) for place, value in enumerate(row))]
        for site, row in zip(described, counts, strict=True)
    ]
    return joined(
        [unshown(record), table("Training samples of each class, by site", ["Site", *named[:wide]], rows, "heats")]
    )


def _held(site: str, name: str, value: float | None, most: float) -> Markup:
    return heat(None if value is None else value / most, count(value), f"{site}, class {name}: {count(value)} samples")
