"""The report of a run: an HTML page, and the table that is printed at the end of a run.

Each section has a function that builds its context for the template; it returns None if there is nothing to show.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fedrecon_core.metrics.base import is_percentage, shown_metrics
from fedrecon_core.types import SPLITS
from server.report.charts import Chart, Column, Mark, RoundsTable, Series, StripCell, line_chart, rounds_table, strip
from server.report.page import Section, Tile, render, write_page
from server.runs import summary
from server.runs.formatting import DASH, bounded, count, decimal, listing, percent, plural, seconds, size
from server.runs.record import RunRecord, entries, mapping, number, read_run
from server.runs.summary import points

MAX_ROWS = 200
"""Maximal number of sites in a table: a page with thousands of rows is slow to write and to open, and of no use."""
STATES = (("cell-ok", "trained"), ("cell-failed", "failed"), ("cell-off", "not asked"))
"""CSS class and name of each state of a site in a round."""
OWN_RATES = {"sites": "some sites their own", "classes": "some classes their own", "independent": "independent masks"}
"""Key of a split's missingness -> what the report adds if it is set."""
HASHES = {
    "code_sha256": "Code, SHA-256",
    "partition_sha256": "Partition, SHA-256",
    "mask_sha256": "Masks, SHA-256",
    "parameters_sha256": "Last parameters, SHA-256",
    "model_sha256": "Model, SHA-256",
}


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into the run directory, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is not a run directory.
        RunError: the page cannot be written.
    """
    return write_page(directory, render_run(read_run(directory)))


def render_run(record: RunRecord) -> str:
    """Return the whole page as HTML."""
    closing = f"Written by FedRecon {_versions(record).get('fedrecon', '')}".rstrip() + "."
    top = {"name": record.name, "closing": closing, "run": overview(record), "tiles": list(tiles(record))}
    return render("run.html.md", record, SECTIONS, **top)


def final_table(record: RunRecord) -> Table:
    """Summarize a run: test scores, best round, traffic and its saving, times. A dash stands for an unknown value."""
    table = Table(
        title=f"{escape(record.name)}: {escape(summary.status(record))}", show_header=False, title_justify="left"
    )
    table.add_column("name", style="bold")
    table.add_column("value", justify="right")
    test, result = summary.final_scores(record), record.result
    for metric, title in summary.scores(record).items():
        value, bound = number(test.get(metric)), number(test.get(f"{metric}_error"))
        lower = title if title.isupper() else title[0].lower() + title[1:]
        table.add_row(f"Test {lower}", bounded(value, bound) if is_percentage(metric) else decimal(value))
    table.add_row("Test loss", decimal(number(test.get("loss"))))
    table.add_row("Best round", f"{count(summary.best_round(record))} of {summary.rounds_done(record)}")
    for name, found in (("Downloaded", summary.traffic(record, "down")), ("Uploaded", summary.traffic(record, "up"))):
        saving = "" if found.saving is None else f" ({percent(found.saving)} saved against sending everything)"
        table.add_row(f"{name} by the sites", f"{size(found.sent)}{saving}")
    table.add_row("Training time", seconds(number(result.get("train_seconds"))))
    table.add_row("Processor time of training", seconds(number(result.get("train_processor_seconds"))))
    table.add_row("Total time", seconds(number(result.get("wall_seconds"))))
    return table


def overview(record: RunRecord) -> dict[str, Any]:
    """Collect the context of heading and notices.

    ``missing``: mean effective missing rate in training; ``error``: why the run failed, or None if it did not;
    ``warnings``: failed replies, losses that diverged, missing files.
    """
    warnings = []
    if failed := summary.failures(record):
        names = list(dict.fromkeys(str(line.get("site") or DASH) for line in failed))
        rounds = plural(len(summary.site_rounds(record)), "round")
        warnings.append(
            f"{plural(len(failed), 'reply', 'replies')} of {len(record.sites)} in {rounds} failed, "
            f"from {listing(names)}; the section Sites gives the reasons."
        )
    warnings += [*(f"{text}." for text in summary.diverged(record)), *record.notes]
    effective = mapping(mapping(record.manifest.get("effective_missing")).get("train"))
    rates = [rate for value in effective.values() if (rate := number(value)) is not None]
    data, recovery, strategy = (str(record.setting(f"{key}.name") or "") for key in ("data", "recovery", "strategy"))
    status = summary.status(record)
    return {
        "status": status,
        "sites": len(summary.site_names(record)),
        "data": data,
        "recovery": recovery,
        "strategy": strategy,
        "modalities": summary.modalities(record),
        "classes": len(entries(record.manifest.get("classes"))),
        "faults": [str(fault).rstrip(".") for fault in entries(record.manifest.get("protocol_faults"))],
        "missing": sum(rates) / len(rates) if rates else None,
        "rounds": summary.rounds_done(record),
        "error": (summary.error(record) or "no reason was given") if status == "failed" else None,
        "warnings": warnings,
    }


def tiles(record: RunRecord) -> Iterator[Tile]:
    """Yield the key numbers: test scores, best round, savings, time."""
    test, titles, result = summary.final_scores(record), summary.scores(record), record.result
    # Only runs whose samples may have several classes have this score.
    lines = (*record.metrics, test)
    several = "macro_auroc" in titles or any("macro_auroc_classes" in line for line in lines)
    classes = len(entries(record.manifest.get("classes")))
    for field, title in titles.items():
        metric, bound = shown_metrics()[field], number(test.get(f"{field}_error"))
        meaning = metric.explain("multilabel" if several else "multiclass", classes)
        value = number(test.get(field))
        text = bounded(value, bound) if metric.percentage else decimal(value)
        if bound:
            meaning += "; ± bounds the error due to the sites' bins"
        yield Tile(f"Test {title}", text, meaning)
    samples, loss = number(test.get("n")), "binary cross-entropy, mean over the classes" if several else "cross-entropy"
    if samples is not None:
        loss += f"{',' if several else ''} over {count(samples)} samples"
    yield Tile("Test loss", decimal(number(test.get("loss"))), loss)
    best, done, planned = summary.best_round(record), summary.rounds_done(record), number(record.setting("rounds"))
    hint = f"gave the model, of {plural(done, 'round')}" if best is not None else "none was chosen"
    hint += f" ({count(planned)} planned)" if planned not in (None, done) else ""
    yield Tile("Best round", count(best), hint)
    for name, found in (("Download", summary.traffic(record, "down")), ("Upload", summary.traffic(record, "up"))):
        hint = f"{size(found.sent)} sent" if found.sent is not None else ""
        if hint and found.everything is not None:
            hint += f"; everything would be {size(found.everything)}"
        yield Tile(f"{name} saved", percent(found.saving), hint)
    whole, trained, processor = (
        number(result.get(key)) for key in ("wall_seconds", "train_seconds", "train_processor_seconds")
    )
    hint = f"{seconds(trained)} of it in training" if trained is not None else ""
    if hint and processor is not None:
        hint += f"; {seconds(processor)} of processor time at the sites"
    yield Tile("Time", seconds(whole), hint)


@dataclass(frozen=True)
class SiteRows:
    """The sites that a table shows: all, or ``MAX_ROWS`` of ``total``, preferably sites that have reported."""

    names: list[str]
    total: int

    @classmethod
    def of(cls, record: RunRecord) -> SiteRows:
        """Choose the sites to show."""
        names, reported = summary.site_names(record), {str(line.get("site")) for line in record.sites}
        chosen = set(sorted(names, key=lambda name: name not in reported)[:MAX_ROWS])
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
    """One site: its samples, its rounds as a strip, and its number of rounds in each of ``STATES``."""

    name: str
    samples: float | None
    strip: list[StripCell]
    counts: list[int]


def sites(record: RunRecord) -> dict[str, Any] | None:
    """List which site took part in which round, and the reasons of failures."""
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
    """Compare the bytes sent with those of sending everything: in all, by site, and by parameter group."""
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


@dataclass(frozen=True)
class Missing:
    """Context of the section on missing data.

    ``presence``: by site, the share of its training samples that have each of the ``modalities``; ``rates``: by split,
    the configured missingness and the effective rate of each modality; ``left_out``: by split, the number of samples
    without any modality.
    """

    shown: SiteRows
    modalities: list[str]
    presence: dict[str, list[float | None]]
    rates: dict[str, tuple[str, list[float | None]]]
    left_out: dict[str, float]


def missing(record: RunRecord) -> Missing | None:
    """Collect presence by site and modality, and the configured and effective missing rates of the splits."""
    shown, effective = SiteRows.of(record), mapping(record.manifest.get("effective_missing"))
    rates = {split: mapping(effective.get(split)) for split in SPLITS}
    modalities = summary.modalities(record)
    presence = {
        name: [number(mapping(site.get("modalities")).get(modality)) for modality in modalities]
        for name, site in shown.described(record).items()
        if modalities
    }
    modalities = modalities or list(dict.fromkeys(modality for split in SPLITS for modality in rates[split]))
    if not presence and not any(rates.values()):
        return None
    table = {}
    for split in SPLITS if any(rates.values()) else ():
        level, rate = record.setting(f"missing.{split}.level"), number(record.setting(f"missing.{split}.rate"))
        if level in (None, "none"):
            configured = "none"
        elif level in ("profile", "coupled"):
            configured = str(level)
        else:
            extra = [text for key, text in OWN_RATES.items() if record.setting(f"missing.{split}.{key}")]
            configured = ", ".join([f"{level} {decimal(rate) if rate is not None else 'by modality'}", *extra])
        table[split] = configured, [number(rates[split].get(modality)) for modality in modalities]
    left_out_of = mapping(record.manifest.get("left_out"))
    left_out = {split: samples for split in SPLITS if (samples := number(left_out_of.get(split)))}
    return Missing(shown, modalities, presence, table, left_out)


@dataclass(frozen=True)
class Classes:
    """Number of training samples of each class, by site; ``most``: the largest of these numbers."""

    shown: SiteRows
    names: list[str]
    counts: dict[str, list[float | None]]
    most: float


def classes(record: RunRecord) -> Classes | None:
    """Collect the number of training samples of each class at each site."""
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


def details(record: RunRecord) -> dict[str, Any]:
    """Collect what identifies the run (``facts``: name, value, whether the value is code) and its ``config.yaml``."""
    facts: list[tuple[str, str, bool]] = []
    seed = number(record.manifest.get("seed", record.setting("seed")))
    if seed is not None:
        facts.append(("Seed", f"{seed:.0f}", False))
    engine = record.manifest.get("engine") or record.setting("engine.name") or "unknown"
    facts.append(("Engine", str(engine), False))
    total = sum(number(value) or 0.0 for value in mapping(record.manifest.get("parameters")).values())
    if total:
        facts.append(("Parameters", count(total), False))
    for key, name in HASHES.items():
        value = record.manifest.get(key) or record.result.get(key)
        if value:
            facts.append((name, str(value), True))
    if versions := _versions(record):
        facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items()), False))
    return {"facts": facts, "config": record.config_text}


def _versions(record: RunRecord) -> Mapping[str, Any]:
    return mapping(record.manifest.get("versions"))


SECTIONS = (
    Section("curves", "Learning curves", curves, "No round has been scored."),
    Section("pictures", "Reconstructions", pictures, "This run drew no reconstructions."),
    Section("sites", "Sites", sites, "No site is known."),
    Section("missing", "Missing data", missing, "The manifest does not say what is missing."),
    Section("classes", "Classes", classes, "The manifest does not list the classes of the sites."),
    Section("traffic", "Traffic", traffic, "No bytes were counted."),
    Section("time", "Time", time, "No site has reported its times."),
    Section("details", "Reproduce", details, ""),
)
