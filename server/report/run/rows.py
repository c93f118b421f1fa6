"""Which sites have a row of their own in the tables of the report: all, or some of very many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.report.markup import Markup, paragraph
from server.runs.formatting import count
from server.runs.record import RunRecord
from server.runs.summary import described_sites, site_names

MOST_ROWS = 200
"""Sites that a table shows one by one: a page of thousands is of no use, and takes its time to write and to open."""


def shown_names(record: RunRecord) -> list[str]:
    """The sites that have a row of their own in a table: all, or ``MOST_ROWS`` of more, those that have reported
    first."""
    names, reported = site_names(record), {str(line.get("site")) for line in record.sites}
    chosen = set(sorted(names, key=lambda name: name not in reported)[:MOST_ROWS])
    return [name for name in names if name in chosen]


def shown_sites(record: RunRecord) -> list[Mapping[str, Any]]:
    """What the manifest says of the sites that have a row of their own."""
    shown = set(shown_names(record))
    return [site for site in described_sites(record) if str(site["name"]) in shown]


def lines_by_site(record: RunRecord) -> dict[str, list[Mapping[str, Any]]]:
    """The lines of each site that has a row of its own."""
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in shown_names(record)}
    for line in record.sites:
        if str(line.get("site")) in found:
            found[str(line["site"])].append(line)
    return found


def unshown(record: RunRecord) -> Markup | None:
    """A sentence on the sites that have no row of their own."""
    shown, all_ = len(shown_names(record)), len(site_names(record))
    if shown == all_:
        return None
    told = f"{count(shown)} of {count(all_)} sites, before others those that took part"
    return paragraph(f"{told}; manifest.json and sites.jsonl have all.", class_="hint")
