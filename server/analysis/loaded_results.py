"""What a sweep's results are shown from: its complete cells, how they are laid out, and published values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import override
from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.registry import discover
from server.analysis.grids import Grid
from server.analysis.layout import Layout, laid_out
from server.analysis.prediction_errors import Refusal
from server.analysis.published import Published, read_published
from server.analysis.ranking import compared, judged
from server.analysis.results import Result, read_results
from server.analysis.shown import Shown, read_shown, rescored
from server.commands.path_kinds import Kind, expect
from server.runs.formatting import plural
from server.runs.setup import PACKAGES
from server.sweep.choices import chosen, exactly, fits, titled
from server.sweep.record import SweepRecord, read_sweep
from server.sweep.table import Table


@dataclass(frozen=True)
class Material:
    """The complete cells of the sweep in ``directory``, and its table section with all that it leaves open decided.
    ``reference``: the CSV of published values, if there is one."""

    directory: Path
    record: SweepRecord
    results: Sequence[Result]
    layout: Layout
    reference: Path | None = None
    shown: Shown | None = None
    """Which test samples are scored; without it all of them."""
    refused: Sequence[Refusal] = ()
    """What is wrong with predictions that were to tell the scores of those."""

    @cached_property
    def published(self) -> Sequence[Published]:
        """The published values; ``DataError`` where they cannot be used."""
        return read_published(self.reference, self.record.parameters) if self.reference else []

    def grids(self) -> list[Grid]:
        """A grid for each section and metric, ranked, with published values.

        Raises:
            UsageError: no complete cell has such a score; ``DataError`` where the published values cannot be used.
        """
        found = [self._told(grid) for grid in judged(self.layout, self.results, self.published)]
        if not found:
            known = ", ".join(sorted({name for result in self.results for name in result.scores}))
            raise UsageError(f"table.metrics: expected scores that complete cells have ({known}), found none of them")
        return found

    def _told(self, grid: Grid) -> Grid:
        told = f"Only of the test samples that show {self.shown}. What is missing in test is theirs, too."
        return replace(grid, remarks=(told, *grid.remarks)) if self.shown else grid

    def compared(self) -> list[Grid]:
        """The same with differences from the baseline, which cost time."""
        baseline = exactly(self.layout.baseline)
        if not any(fits(trial.labels, baseline) for trial in self.record.trials):
            lacks = titled(self.layout.baseline)
            told = f"No differences: no cell here has {lacks}, the baseline; --only must keep it."
            return [replace(grid, notes=(told,)) for grid in self.grids()]
        return compared(self.layout, self.grids(), self.results)


def load_results(
    directory: Path, settings: Sequence[str] = (), only: Sequence[str] = (), shown: str | None = None
) -> Material:
    """The sweep in ``directory``; ``settings`` change its table section, ``only`` (``axis=level,level``) its cells, and
    ``shown`` (``1``, ``acc,gyro``) says which test samples are scored, by the modalities that they show.

    Raises:
        UsageError: it is something else, or the settings or the choice do not fit it; ``DataError`` where no cell is
            complete.
    """
    discover(PACKAGES)
    expect(directory, Kind.SWEEP)
    record = read_sweep(directory)
    asked = _table(record, settings)
    kept = replace(record, trials=chosen(record.trials, record.parameters, only)) if only else record
    results = _complete(kept, directory)
    layout = laid_out(asked, record.parameters, _chosen_by(results))
    if shown is None:
        return Material(directory, kept, results, layout, _reference(asked, settings, directory))
    part = read_shown(shown)  # values that are published are of all test samples
    scored, refused = rescored(results, part)
    return Material(directory, kept, scored, layout, shown=part, refused=refused)


def _complete(record: SweepRecord, directory: Path) -> list[Result]:
    results = read_results(record)
    if not results:
        told = f"none of {plural(len(record.trials), 'cell')} is complete; `fedrecon sweep` goes on with them"
        raise DataError(f"{directory}: nothing to show: {told}")
    return results


def _table(record: SweepRecord, settings: Sequence[str]) -> Table:
    """The table section of the sweep with what the command changes of it, checked against the axes."""
    raw = override(dict(record.table), settings)
    try:
        found = Table.model_validate(raw)
        found.check(record.parameters)
    except ValidationError as error:
        raise UsageError(f"table: {explain(error, raw, Table)}") from None
    except InvalidValueError as error:
        raise UsageError(f"{error.key}: {error}") from None
    return found


def _chosen_by(results: Sequence[Result]) -> tuple[str, ...]:
    """The metrics that chose the best rounds: one, unless bases differ in it; accuracy where no config can be read."""
    return tuple(dict.fromkeys(result.select for result in results if result.select)) or ("accuracy",)


def _reference(asked: Table, settings: Sequence[str], directory: Path) -> Path | None:
    """A path on the command line begins where its caller is, the sweep's own in its directory."""
    if asked.reference is None:
        return None
    set_here = any(word.partition("=")[0].strip() == "reference" for word in settings)
    return (Path() if set_here else directory) / asked.reference
