"""Context of the top of the report of a run: the run and its end, key numbers, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedrecon_core.metrics.base import shown_metrics
from server.report.page import Tile
from server.runs import summary
from server.runs.formatting import DASH, bounded, count, decimal, listing, percent, plural, seconds, size
from server.runs.record import RunRecord, entries, mapping, number
from server.runs.summary import Direction

DIRECTIONS: dict[Direction, str] = {"down": "Download", "up": "Upload"}


@dataclass(frozen=True)
class Overview:
    """The run in numbers. ``missing``: mean effective missing rate in training; ``error``: why the run failed, or None
    if it did not; ``warnings``: failed replies, losses that diverged, missing files."""

    status: str
    sites: int
    data: str
    recovery: str
    strategy: str
    modalities: list[str]
    classes: int
    faults: list[str]
    missing: float | None
    rounds: int
    error: str | None
    warnings: list[str]


def overview(record: RunRecord) -> Overview:
    """Collect the context of heading and notices."""
    effective = mapping(mapping(record.manifest.get("effective_missing")).get("train"))
    rates = [rate for value in effective.values() if (rate := number(value)) is not None]
    data, recovery, strategy = (str(record.setting(f"{key}.name") or "") for key in ("data", "recovery", "strategy"))
    status = summary.status(record)
    return Overview(
        status=status,
        sites=len(summary.site_names(record)),
        data=data,
        recovery=recovery,
        strategy=strategy,
        modalities=summary.modalities(record),
        classes=len(entries(record.manifest.get("classes"))),
        faults=[str(fault).rstrip(".") for fault in entries(record.manifest.get("protocol_faults"))],
        missing=sum(rates) / len(rates) if rates else None,
        rounds=summary.rounds_done(record),
        error=(summary.error(record) or "no reason was given") if status == "failed" else None,
        warnings=[*_failed_replies(record), *(f"{text}." for text in summary.diverged(record)), *record.notes],
    )


def _failed_replies(record: RunRecord) -> Iterator[str]:
    failed = summary.failures(record)
    if failed:
        names = list(dict.fromkeys(str(line.get("site") or DASH) for line in failed))
        rounds = plural(len(summary.site_rounds(record)), "round")
        yield (
            f"{plural(len(failed), 'reply', 'replies')} of {len(record.sites)} in {rounds} failed, "
            f"from {listing(names)}; the section Sites gives the reasons."
        )


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
    for direction, name in DIRECTIONS.items():
        found = summary.traffic(record, direction)
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
