"""Contexts of the sections on training: curves, pictures, sites, traffic, time. None: there is nothing to show."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedrecon_core.metrics.base import is_percentage
from server.report.charts import Chart, Column, Mark, RoundsTable, Series, StripCell, line_chart, rounds_table, strip
from server.runs import summary
from server.runs.formatting import decimal, percent
from server.runs.record import RunRecord, mapping, number
from server.runs.summary import points

MOST_ROWS = 200
"""Most sites that a table shows one by one: a page of thousands is slow to write and to open, and of no use."""
STATES = (("cell-ok", "trained"), ("cell-failed", "failed"), ("cell-off", "not asked"))
"""CSS class and name of what a site did in a round."""


@dataclass(frozen=True)
class SiteRows:
    """The sites with a row of their own in a table: all, or ``MOST_ROWS`` of ``total``, those that reported first."""

    names: list[str]
    total: int

    @classmethod
    def of(cls, record: RunRecord) -> SiteRows:
        """Choose the sites to show."""
        names, reported = summary.site_names(record), {str(line.get("site")) for line in record.sites}
        chosen = set(sorted(names, key=lambda name: name not in reported)[:MOST_ROWS])
        return cls([name for name in names if name in chosen], len(names))

    def described(self, record: RunRecord) -> dict[str, Mapping[str, Any]]:
        """Return the entry of each site in the manifest, if it has one."""
        found = {str(site["name"]): site for site in summary.described_sites(record)}
        return {name: site for name, site in found.items() if name in set(self.names)}

    def lines(self, record: RunRecord) -> dict[str, list[Mapping[str, Any]]]:
        """Return the lines of ``sites.jsonl`` of each site."""
        found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in self.names}
        for line in record.sites:
            if str(line.get("site")) in found:
                found[str(line["site"])].append(line)
        return found


@dataclass(frozen=True)
class Curves:
    """Scores and losses over the rounds. ``mappings``: whether mapping models were trained."""

    charts: list[Chart]
    mappings: bool
    rounds: RoundsTable


def curves(record: RunRecord) -> Curves | None:
    """Draw scores and losses over the rounds, with the numbers behind them."""
    best = summary.best_round(record)
    mark = Mark(best, f"best: round {best}") if best is not None else None
    shares: list[Series] = []
    others: list[Series] = []
    for metric, title in summary.scores(record).items():
        (shares if is_percentage(metric) else others).append(Series(title, points(record, "validation", metric)))
    losses = [
        Series("training", points(record, "train", "loss")),
        Series("validation", points(record, "validation", "loss")),
    ]
    mappings = points(record, "train", "loss_mapping")
    charts = [
        line_chart("Validation scores", shares, percent, mark),
        *(line_chart(f"Validation {one.name}", [one], decimal, mark) for one in others),
        line_chart("Loss of the task model", losses, decimal, mark),
        line_chart("Loss of the generators", [Series("training", points(record, "train", "loss_generator"))], decimal),
        line_chart("Loss of the mappings", [Series("training", mappings)], decimal),
    ]
    drawn = [chart for chart in charts if chart]
    columns: list[Column] = [
        *((f"{one.name.capitalize()} loss", one.points, decimal) for one in losses),
        *((f"Validation {one.name}", one.points, percent) for one in shares),
        *((f"Validation {one.name}", one.points, decimal) for one in others),
    ]
    return Curves(drawn, bool(mappings), rounds_table("Losses and scores by round", columns)) if drawn else None


def pictures(record: RunRecord) -> str | None:
    """Return the grid of reconstructions as a PNG in base64, if the run drew one."""
    return base64.b64encode(record.picture).decode("ascii") if record.picture else None


@dataclass(frozen=True)
class SiteRow:
    """One site: its samples, its rounds as a strip, and how many rounds it was in each of ``STATES``."""

    name: str
    samples: float | None
    strip: list[StripCell]
    counts: list[int]


def sites(record: RunRecord) -> dict[str, Any] | None:
    """List who took part in which round, and why a site did not."""
    shown, rounds = SiteRows.of(record), summary.site_rounds(record)
    if not shown.names:
        return None
    described, reports = shown.described(record), summary.participation(record)
    rows = []
    for name in shown.names:
        states = [(turn, *_state(reports[name].get(turn))) for turn in rounds]
        samples = number(described.get(name, {}).get("samples"))
        if samples is None:
            samples = max((number(line.get("samples")) or 0.0 for line in reports[name].values()), default=None)
        counts = [sum(state == css for _, state, _ in states) for css, _ in STATES]
        rows.append(SiteRow(name, samples, strip(name, states), counts))
    failed = [
        (str(line.get("site")), number(line.get("round")), line.get("reason")) for line in summary.failures(record)
    ]
    return {"shown": shown, "rounds": rounds, "rows": rows, "failures": failed, "states": STATES}


def _state(report: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the CSS class and the tooltip of one site in one round."""
    if report is None:
        return "cell-off", "not asked"
    if report.get("status") == "ok":
        return "cell-ok", "trained"
    return "cell-failed", f"failed: {report.get('reason') or 'no reason given'}"


def traffic(record: RunRecord) -> dict[str, Any] | None:
    """Compare the bytes with sending everything: as a whole, by site, by parameter group."""
    whole = {"Download": summary.traffic(record, "down"), "Upload": summary.traffic(record, "up")}
    if all(one.sent is None for one in whole.values()):
        return None
    shown = SiteRows.of(record)
    lines = shown.lines(record) if record.sites else {}
    by_site = [
        (name, summary.traffic_of(record, "down", own), summary.traffic_of(record, "up", own))
        for name, own in lines.items()
    ]
    known = mapping(record.manifest.get("parameters"))
    down, up = summary.group_uses(record, "down"), summary.group_uses(record, "up")
    groups = [(name, number(known.get(name)), down.get(name, 0), up.get(name, 0)) for name in {**known, **down, **up}]
    total = sum(number(value) or 0.0 for value in known.values())
    return {"whole": whole, "shown": shown, "sites": by_site, "groups": groups, "parameters": total}


def time(record: RunRecord) -> dict[str, Any] | None:
    """List the seconds of each stage of the local loop, by site."""
    shown = SiteRows.of(record)
    rows = {name: summary.stage_seconds(lines) for name, lines in shown.lines(record).items()}
    longest = max((sum(stages.values()) for stages in rows.values()), default=0.0)
    if longest <= 0:
        return None
    sums = summary.stage_seconds(record.sites)
    return {"shown": shown, "rows": rows, "longest": longest, "sums": sums, "stages": list(sums)}
