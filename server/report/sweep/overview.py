"""The top of a sweep's report: what was compared, how many cells are there, and what a reader has to know first."""

from __future__ import annotations

from collections.abc import Iterator

from server.analysis.results import Result, total
from server.report.markup import Markup, joined, paragraph, tag
from server.report.page import tile
from server.report.sweep.view import View
from server.runs.formatting import count, listing, plural, seconds, size
from server.runs.record import number
from server.sweep.parameters import SEED
from server.sweep.record import State, ending

_MEANINGS = {
    State.COMPLETE: "ran to the end",
    State.FAILED: "ended with an error",
    State.UNFINISHED: "begun, without an end",
    State.MISSING: "not begun",
}


def heading(view: View) -> Markup:
    """The sweep's name, how it stands, and one sentence on what it compares."""
    word, class_ = _status(view)
    title = tag("h1", view.record.name, " ", tag("span", word, class_=f"badge {class_}"))
    return tag("header", paragraph("FedRecon sweep", class_="kicker"), title, paragraph(*_story(view), class_="lead"))


def _status(view: View) -> tuple[str, str]:
    """A word and its CSS class."""
    if view.having(State.FAILED):
        return "failed cells", "failed"
    whole = len(view.having(State.COMPLETE)) == len(view.record.trials)
    return ("complete", "completed") if whole else ("unfinished", "unfinished")


def _story(view: View) -> Iterator[str | Markup]:
    yield f"{plural(len(view.record.trials), 'run')} of one config, changed along "
    parameters = [parameter for parameter in view.record.parameters if parameter != SEED]
    for place, parameter in enumerate(parameters):
        yield from (
            ", " if place else "",
            tag("b", parameter),
            f" ({listing(list(view.record.parameters[parameter]))})",
        )
    if SEED in view.record.parameters:
        yield f"{', each with' if parameters else ''} up to {plural(len(view.record.parameters[SEED]), 'seed')}"
    yield "."


def tiles(view: View) -> Markup:
    """How many cells stand how, and what those that are complete cost together."""
    every = len(view.record.trials)
    shown = [tile(state.capitalize(), count(len(view.having(state))), _MEANINGS[state]) for state in State]
    shown[0] = tile("Complete", f"{len(view.having(State.COMPLETE))} of {every}", _MEANINGS[State.COMPLETE])
    told = "of the complete cells, one after the other"
    shown.append(tile("Whole time", seconds(total([_wall(result) for result in view.results])), told))
    sent = total([result.bytes for result in view.results])
    shown.append(tile("Tensor bytes", size(sent), "both ways, of all complete cells"))
    return tag("dl", *shown, class_="tiles")


def _wall(result: Result) -> float | None:
    return number(ending(result.directory).get("wall_seconds"))


def notices(view: View) -> Markup:
    """What is left out, and what could not be compared."""
    failed, others = view.having(State.FAILED), len(view.record.trials) - len(view.having(State.COMPLETE))
    parts = []
    if failed:
        told = tag("b", f"{plural(len(failed), 'cell')} failed"), "; the reasons stand under "
        link = tag("a", "What failed and why", href="#failures")
        parts.append(_notice("notice bad", "Failures", *told, link, "."))
    if others and view.results:
        told_of = f"{others} of {plural(len(view.record.trials), 'cell')} {'is' if others == 1 else 'are'} not complete"
        parts.append(_notice("notice", "What is left out", f"{told_of} and left out of all scores."))
    parts += [_notice("notice", "What to know of the cells", told) for told in view.told]
    if view.fault:
        parts.append(_notice("notice bad", "What is wrong", "The results cannot be compared: ", view.fault))
    return joined(parts)


def _notice(class_: str, name: str, *words: str | Markup) -> Markup:
    return tag("div", paragraph(*words), class_=class_, role="note", aria_label=name)
