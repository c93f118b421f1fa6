"""The top of the report: what was run, how it ended, the numbers that matter, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from server.report.markup import Markup, abridged, joined, paragraph, tag
from server.report.page import tile
from server.runs.formatting import DASH, bounded, count, decimal, listing, percent, plural, seconds, size
from server.runs.record import RunRecord, entries, mapping, number
from server.runs.summary import (
    Direction,
    best_round,
    diverged,
    error,
    failures,
    final_scores,
    modalities,
    rounds_done,
    scores,
    site_names,
    site_rounds,
    status,
    traffic,
)

MEANINGS = {
    "uar": "mean recall of the classes",
    "macro_auroc": "mean area under the ROC curve; chance is 50%",
    "accuracy": "share of test samples classified rightly",
    "macro_f1": "mean F1 of the classes",
}
"""Score -> what it says, in the order of the tiles."""


def heading(record: RunRecord) -> Markup:
    """The run's name, its status and one sentence on what it did."""
    word = status(record)
    title = tag("h1", record.name, " ", tag("span", word, class_=f"badge {word}"))
    lead = paragraph(*_story(record), class_="lead")
    return tag("header", paragraph("FedRecon run", class_="kicker"), title, lead)


def _story(record: RunRecord) -> Iterator[str | Markup]:
    sites = site_names(record)
    who = plural(len(sites), "site") if sites else "Sites"
    yield f"{who} trained one classifier together"
    for value, text in (("data.name", " on "), ("recovery.name", ", recovery "), ("strategy.name", ", strategy ")):
        if record.setting(value):
            yield from (text, tag("b", str(record.setting(value))))
    yield ". "
    if named := modalities(record):
        classes = len(entries(record.manifest.get("classes")))
        known = f" and {plural(classes, 'class', 'classes')}" if classes else ""
        yield f"{plural(len(named), 'modality', 'modalities')} ({listing(named)}){known}. "
    rates = [number(rate) for rate in _effective(record, "train").values()]
    for fault in entries(record.manifest.get("protocol_faults")):
        yield f"Known fault of the protocol: {str(fault).rstrip('.')}. "
    known_rates = [rate for rate in rates if rate is not None]
    if known_rates:
        missing = percent(sum(known_rates) / len(known_rates), 0)
        yield f"In training, {missing} of what the modalities could have shown was missing. "


def _effective(record: RunRecord, split: str) -> dict[str, object]:
    return dict(mapping(mapping(record.manifest.get("effective_missing")).get(split)))


def tiles(record: RunRecord) -> Markup:
    """The key numbers: test scores, best round, savings, time."""
    test = final_scores(record)
    titles = scores(record)
    shown = [
        tile(f"Test {titles[field]}", _score(test, field), _meaning(record, field))
        for field in MEANINGS
        if field in titles
    ]
    shown.append(tile("Test loss", decimal(number(test.get("loss"))), _samples(record, number(test.get("n")))))
    done, planned = rounds_done(record), number(record.setting("rounds"))
    best = best_round(record)
    hint = f"gave the model, of {plural(done, 'round')}" if best is not None else "none was chosen"
    hint += f" ({count(planned)} planned)" if planned not in (None, done) else ""
    shown.append(tile("Best round", count(best), hint))
    shown += [_saving(record, "down", "Download saved"), _saving(record, "up", "Upload saved")]
    shown.append(tile("Time", seconds(number(record.result.get("wall_seconds"))), _training(record)))
    return tag("dl", *shown, class_="tiles")


def _training(record: RunRecord) -> str:
    """What of the time was training, by the clock and, where it was measured, of the sites' processors."""
    trained, worked = (number(record.result.get(f"train_{kind}")) for kind in ("seconds", "processor_seconds"))
    told = f"{seconds(trained)} of it in training" if trained is not None else ""
    return f"{told}; {seconds(worked)} of processor time at the sites" if told and worked is not None else told


def _several(record: RunRecord) -> bool:
    """Whether samples may have several classes: such runs alone have this score."""
    told = (*record.metrics, final_scores(record))
    return "macro_auroc" in scores(record) or any("macro_auroc_classes" in line for line in told)


def _meaning(record: RunRecord, field: str) -> str:
    chance, bound = len(entries(record.manifest.get("classes"))), number(final_scores(record).get(f"{field}_error"))
    if field == "uar" and chance:
        return f"{MEANINGS[field]}; chance is {percent(1 / chance, 0)}"
    if field == "accuracy" and _several(record):
        return "share of right answers, yes or no, over all classes"
    return MEANINGS[field] + ("; ± is the most by which the sites' bins may mislead" if bound else "")


def _score(test: Mapping[str, object], field: str) -> str:
    return bounded(number(test.get(field)), number(test.get(f"{field}_error")))


def _samples(record: RunRecord, samples: float | None) -> str:
    name = "binary cross-entropy, mean over the classes," if _several(record) else "cross-entropy"
    return f"{name} over {count(samples)} samples" if samples is not None else name.rstrip(",")


def _saving(record: RunRecord, direction: Direction, name: str) -> Markup:
    found = traffic(record, direction)
    hint = f"{size(found.sent)} sent"
    if found.everything is not None:
        hint += f"; everything would be {size(found.everything)}"
    return tile(name, percent(found.saving), hint if found.sent is not None else "")


def notices(record: RunRecord) -> Markup:
    """What failed and why, and what the run directory does not hold."""
    parts = []
    if status(record) == "failed":
        parts.append(_failure(record))
    warnings = [*_site_failures(record), *(f"{text}." for text in diverged(record)), *record.notes]
    if warnings:
        listed = tag("ul", *(tag("li", warning) for warning in warnings))
        parts.append(tag("div", listed, class_="notice", role="note", aria_label="What to know about this run"))
    return joined(parts)


def _failure(record: RunRecord) -> Markup:
    brief, rest = abridged("Whole error", error(record) or "it did not say why")
    opening = tag("b", f"The run failed after {plural(rounds_done(record), 'round')}: ")
    return tag(
        "div", paragraph(opening, brief), rest, class_="notice bad", role="note", aria_label="Why the run failed"
    )


def _site_failures(record: RunRecord) -> Iterator[str]:
    failed = failures(record)
    if failed:
        names = list(dict.fromkeys(str(line.get("site") or DASH) for line in failed))
        rounds = plural(len(site_rounds(record)), "round")
        yield (
            f"{plural(len(failed), 'reply', 'replies')} of {len(record.sites)} in {rounds} failed, "
            f"from {listing(names)}; the reasons stand under Sites."
        )
