"""What a reader of tables or figures of a sweep has to know of its cells: which are left out, and which were made
otherwise than the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from server.analysis.loaded_results import Material
from server.analysis.published import unknown_names
from server.analysis.results import Result
from server.runs.formatting import listing, plural
from server.sweep.choices import titled
from server.sweep.record import State, SweepRecord
from server.sweep.table import metric_names

_MADE = {"code": "versions of the code", "torch": "versions of PyTorch", "device": "devices", "engine": "engines"}
"""``Result.made`` -> what is told to differ."""


def remarks(material: Material) -> list[str]:
    """Sentences on all of them."""
    return [*left_out(material.record), *refused(material), *mixed(material.results), *unknown(material)]


def left_out(record: SweepRecord) -> Iterator[str]:
    """A sentence on the cells that are not complete."""
    others = [trial for trial in record.trials if trial.status is not State.COMPLETE]
    if others:
        which = listing([f"{titled(trial.labels)} ({trial.status})" for trial in others])
        yield f"Left out, not complete: {len(others)} of {plural(len(record.trials), 'cell')}: {which}."


def refused(material: Material) -> Iterator[str]:
    """A sentence on each fault of predictions that were to be scored."""
    for fault in material.refused:
        yield f"Not scored: {fault}."


def unknown(material: Material) -> Iterator[str]:
    """A sentence on the published values whose names are none of the sweep's."""
    found = list(unknown_names(material.published, material.record.parameters, metric_names()))
    if found:
        yield f"Published values of names that this sweep does not have stand beside no field: {listing(found)}."


def mixed(results: Sequence[Result]) -> Iterator[str]:
    """A sentence on each way in which ``results`` were not made alike; what one does not say is no difference."""
    for kind, name in _MADE.items():
        found = Counter(result.made[kind] for result in results if kind in result.made)
        if len(found) > 1:
            silent = len(results) - found.total()
            known = [f"{count} of {version}" for version, count in found.most_common()]
            which = listing([*known, *([f"{silent} that do not say"] if silent else [])])
            told = "what sets cells apart may be that"
            yield f"The {len(results)} cells come from {len(found)} {name} ({which}): {told}."
