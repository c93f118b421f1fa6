"""The sections of the report, one function each: a `RunRecord` in, the section's content out, or nothing to show."""

from __future__ import annotations

import base64
from typing import Any

from server.report.charts import Mark, Series, bar, line_chart, strip
from server.report.markup import NOTHING, Markup, joined, left, paragraph, table, tag, unfold
from server.report.run.rows import lines_by_site, shown_names, unshown
from server.runs.formatting import DASH, count, decimal, percent, plural, seconds, size
from server.runs.record import RunRecord, mapping, number
from server.runs.summary import (
    OTHER,
    STAGES,
    Direction,
    best_round,
    described_sites,
    failures,
    group_uses,
    participation,
    points,
    scores,
    site_rounds,
    stage_seconds,
    traffic,
    traffic_of,
)

LIKELIHOODS = (
    "The losses of generators and mappings are negative log-likelihoods in nats, so they may fall below zero. The"
    " mappings' loss can rise from round to round: the latents that they predict come to say more."
)


def curves(record: RunRecord) -> Markup:
    """Scores and losses over the rounds, with the numbers behind them as a table."""
    best = best_round(record)
    mark = Mark(best, f"best: round {best}") if best is not None else None
    drawn_scores = [Series(name, points(record, "validation", field)) for field, name in scores(record).items()]
    losses = [
        Series("training", points(record, "train", "loss")),
        Series("validation", points(record, "validation", "loss")),
    ]
    drawn = [
        line_chart("Validation scores", drawn_scores, percent, mark),
        line_chart("Loss of the task model", losses, decimal, mark),
        line_chart("Loss of the generators", [Series("training", points(record, "train", "loss_generator"))], decimal),
        line_chart("Loss of the mappings", [Series("training", points(record, "train", "loss_mapping"))], decimal),
    ]
    if not any(drawn):
        return NOTHING
    told = tag("p", LIKELIHOODS) if points(record, "train", "loss_mapping") else ""
    return joined([tag("div", *drawn, class_="charts"), told, _rounds(record)])


def _rounds(record: RunRecord) -> Markup:
    fields = [("train", "loss", "Training loss"), ("validation", "loss", "Validation loss")]
    columns = [dict(points(record, split, field)) for split, field, _ in fields]
    titles = scores(record)
    shares = [dict(points(record, "validation", field)) for field in titles]
    rounds = sorted({turn for column in [*columns, *shares] for turn in column})
    rows = [
        [count(turn), *(decimal(c.get(turn)) for c in columns), *(percent(c.get(turn)) for c in shares)]
        for turn in rounds
    ]
    head = ["Round", *(name for _, _, name in fields), *(f"Validation {name}" for name in titles.values())]
    return unfold("The numbers behind the curves", table("Losses and scores by round", head, rows))


def reconstructions(record: RunRecord) -> Markup:
    """The picture grid, if the run drew one."""
    if record.picture is None:
        return NOTHING
    about = (
        "Each row starts with one real sample of one modality. Every further column shows what the trained model makes "
        "of it in that modality: the source is encoded, a mapping model carries its latent over, and the target's "
        "decoder draws the mean. Only what the modalities share can be right; the rest is the target's average. A grey "
        "field: no trained path leads there."
    )
    source = "data:image/png;base64," + base64.b64encode(record.picture).decode("ascii")
    alt = "Grid of pictures: a source sample per row, its reconstructions in the target modalities beside it."
    picture = tag("img", src=source, alt=alt, class_="picture")
    return joined(
        [
            paragraph(about),
            tag(
                "figure",
                tag("div", picture, class_="scroll whole", tabindex=0, role="region", aria_label="Reconstruction grid"),
            ),
        ]
    )


def sites(record: RunRecord) -> Markup:
    """Who took part in which round, and why a site did not."""
    names, rounds, reports = shown_names(record), site_rounds(record), participation(record)
    if not names:
        return NOTHING
    described = {str(site["name"]): site for site in described_sites(record)}
    rows = [_site_row(name, described.get(name, {}), rounds, reports[name]) for name in names]
    span = f"Rounds {rounds[0]} to {rounds[-1]}" if rounds else "Rounds"
    head = ["Site", "Samples", left(span), "Trained", "Failed", "Not asked"]
    key = tag("ul", *(_key(*state) for state in KEY), class_="legend")
    shown = table("Participation of the sites by round", head, rows)
    return joined([key, unshown(record), shown, _reasons(record)])


KEY = (("cell-ok", "trained"), ("cell-failed", "failed"), ("cell-off", "not asked"))


def _key(class_: str, word: str) -> Markup:
    return tag("li", _swatch(class_), word)


def _swatch(class_: str) -> Markup:
    return tag("svg", tag("rect", width=14, height=14, class_=class_), viewBox="0 0 14 14", class_="swatch")


def _site_row(name: str, described: Any, rounds: list[int], reports: Any) -> list[Any]:
    states = [(turn, *_state(reports.get(turn))) for turn in rounds]
    tally = [sum(state[1] == class_ for state in states) for class_, _ in KEY]
    samples = number(described.get("samples"))
    if samples is None:
        samples = max((number(line.get("samples")) or 0.0 for line in reports.values()), default=None)
    return [name, count(samples), tag("td", strip(name, states), class_="wide", data_sort=tally[0]), *tally]


def _state(report: Any) -> tuple[str, str]:
    """CSS class and hover text of one site in one round."""
    if report is None:
        return "cell-off", "not asked"
    if report.get("status") == "ok":
        return "cell-ok", "trained"
    return "cell-failed", f"failed: {report.get('reason') or 'no reason given'}"


def _reasons(record: RunRecord) -> Markup | None:
    failed = failures(record)
    if not failed:
        return None
    rows = [
        [
            str(line.get("site")),
            count(number(line.get("round"))),
            tag("td", str(line.get("reason") or DASH), class_="text"),
        ]
        for line in failed
    ]
    head = ["Site", "Round", left("Reason")]
    return joined([tag("h3", "What failed and why"), table("Failures", head, rows, "reasons")])


def traffic_section(record: RunRecord) -> Markup:
    """Bytes against sending everything: as a whole, by site, by parameter group."""
    whole = [traffic(record, "down"), traffic(record, "up")]
    if all(one.sent is None for one in whole):
        return NOTHING
    about = (
        "A site downloads only the parameter groups that its modalities need and uploads only those that it trained. "
        "The comparison is with sending every group, and what the strategy sends beside it, to and from every site in "
        "every round."
    )
    rows = [
        [name, size(one.sent), size(one.everything), tag("td", tag("b", percent(one.saving)), data_sort=one.saving)]
        for name, one in zip(("Download", "Upload"), whole, strict=True)
    ]
    head = ["Direction", "Sent", "If everything were sent", "Saved"]
    return joined([paragraph(about), table("Traffic of the run", head, rows), _by_site(record), _by_group(record)])


def _by_site(record: RunRecord) -> Markup | None:
    if not record.sites:
        return None
    rows = [
        [name, *_site_traffic(record, name, lines, "down"), *_site_traffic(record, name, lines, "up")]
        for name, lines in lines_by_site(record).items()
    ]
    head = ["Site", left("Download"), "Sent", left("Upload"), "Sent"]
    about = paragraph("A full bar is what the site would send if everything were sent.", class_="hint")
    return joined([tag("h3", "By site"), about, unshown(record), table("Traffic by site", head, rows)])


def _site_traffic(record: RunRecord, name: str, lines: Any, direction: Direction) -> list[Markup | str]:
    found = traffic_of(record, direction, lines)
    whole = found.everything or found.sent or 0.0
    hover = f"{name}, {direction}: {size(found.sent)} of {size(found.everything)}"
    shown = bar([(hover, found.sent or 0.0)], whole)
    return [tag("td", shown, class_="wide", data_sort=(found.sent or 0.0) / (whole or 1.0)), size(found.sent)]


def _by_group(record: RunRecord) -> Markup | None:
    known, down, up = mapping(record.manifest.get("parameters")), group_uses(record, "down"), group_uses(record, "up")
    groups = list(dict.fromkeys([*known, *down, *up]))
    if not groups:
        return None
    rows = [[g, count(number(known.get(g))), count(down.get(g, 0)), count(up.get(g, 0))] for g in groups]
    head = ["Parameter group", "Parameters", "Downloads", "Uploads"]
    total = sum(number(value) or 0.0 for value in known.values())
    title = f"By parameter group ({plural(len(groups), 'group')}, {count(total)} parameters)"
    return unfold(title, table("Downloads and uploads of each parameter group, in site-rounds", head, rows))


def time(record: RunRecord) -> Markup:
    """Seconds per stage of the local loop, by site."""
    spent = {name: stage_seconds(lines) for name, lines in lines_by_site(record).items()}
    longest = max((sum(stages.values()) for stages in spent.values()), default=0.0)
    if longest <= 0:
        return NOTHING
    rows = []
    for name, stages in spent.items():
        parts = [(f"{name}, {stage}: {seconds(value)}", value) for stage, value in stages.items()]
        whole = tag("td", bar(parts, longest), class_="wide", data_sort=sum(stages.values()))
        rows.append([name, whole, *map(seconds, stages.values())])
    names = [*STAGES.values(), OTHER]
    key = tag("ul", *(_key(f"fill c{place}", stage) for place, stage in enumerate(names, 1)), class_="legend")
    sums = [tag("td", tag("b", seconds(value))) for value in stage_seconds(record.sites).values()]
    head = ["Site", left("Over all rounds"), *names]
    shown = table("Seconds per stage by site", head, rows, last=["All sites", tag("td", class_="wide"), *sums])
    return joined([key, unshown(record), shown])
