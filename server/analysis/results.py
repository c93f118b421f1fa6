"""The results that the commands show: the complete trials of a sweep, the layout of its tables, published values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from fedrecon_core.config.errors import InvalidValueError, explain
from fedrecon_core.config.loading import override
from fedrecon_core.errors import DataError, UsageError
from server.analysis.differences import Differences
from server.analysis.predictions import PredictionFault, Predictions, PredictionsError, Shown, check_scores, merged
from server.analysis.published import Published, read_published, unknown_names
from server.analysis.tables import Layout, ScoreTable, compare, matching, score_tables
from server.analysis.trials import METRICS, MISSING, Sweep, load_sweep
from server.runs.formatting import listing, plural
from server.runs.readers import yaml_mapping
from server.runs.setup import use_recorded_plugins
from server.sweep.parameters import title_of
from server.sweep.record import State
from server.sweep.spec import Table, metric_names

PROVENANCE = {
    "code_sha256": "versions of the code",
    "versions.torch": "versions of PyTorch",
    "device": "devices",
    "engine": "engines",
}
"""Column of the trials -> its name in notes on mixed provenance."""
DIGITS = 12
"""Number of characters of a hash or version in a note."""


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep. ``sweep`` holds the chosen trials, ``trials`` the complete ones among them with their
    scores: of all test samples, or of those that ``shown`` selects. ``faults``: why predictions could not be scored
    for ``shown``."""

    sweep: Sweep
    trials: pd.DataFrame = field(repr=False)
    layout: Layout
    predictions: Predictions
    reference: Path | None = None
    shown: Shown | None = None
    faults: Sequence[PredictionFault] = ()

    @cached_property
    def published(self) -> Sequence[Published]:
        """The published values; ``DataError`` where they cannot be used."""
        return read_published(self.reference, self.sweep.parameters) if self.reference else []

    def tables(self) -> list[ScoreTable]:
        """A table of scores for each section and metric, ranked, with published values.

        Raises:
            UsageError: no complete trial has such a score; ``DataError`` where the published values cannot be used.
        """
        found = score_tables(self.layout, self.trials, self.published)
        if not found:
            names = [name for name in score_names(self.trials) if self.trials[METRICS + name].notna().any()]
            known = ", ".join(sorted(names))
            raise UsageError(f"table.metrics: expected scores that complete trials have ({known}), found none of them")
        if self.shown is None:
            return found
        remark = f"Scores and test missing rates are computed on the test samples that show {self.shown}."
        return [replace(table, remarks=(remark, *table.remarks)) for table in found]

    def compared_tables(self) -> list[ScoreTable]:
        """The same tables with differences from the baseline. This takes time, since predictions are resampled."""
        baseline = self.layout.baseline
        if not baseline:
            return self.tables()
        if matching(self.sweep.trials, baseline).empty:
            note = f"No differences: no selected trial has the baseline {title_of(baseline)}; --only must include it."
            return [replace(table, notes=(note,)) for table in self.tables()]
        differences = Differences(self.trials, self.predictions)
        return [compare(table, self.layout, self.trials, differences) for table in self.tables()]

    def notes(self) -> list[str]:
        """Sentences for readers of tables and figures: which trials are left out, and which differ from the others in
        code, device or versions."""
        return [*left_out(self.sweep), *(f"Not scored: {fault}." for fault in self.faults), *self.caveats()]

    def caveats(self) -> list[str]:
        """Those of ``notes`` that are about the complete trials and the published values."""
        found = list(mixed_provenance(self.trials))
        names = list(unknown_names(self.published, self.sweep.parameters, metric_names()))
        if names:
            text = "Published values with names that this sweep does not have are not shown"
            found.append(f"{text}: {listing(names)}.")
        return found


def load_results(
    directory: Path, settings: Sequence[str] = (), only: Sequence[str] = (), shown: str | None = None
) -> SweepResults:
    """Load the results of the sweep in ``directory``, packed or not.

    Args:
        directory: the sweep.
        settings: ``key=value`` for keys of its ``table`` section.
        only: ``parameter=value,value``: the trials that are kept.
        shown: ``1`` or ``acc,gyro``: the test samples that are scored, by the modalities that they have.

    Raises:
        UsageError: the settings or the choice do not fit the sweep; ``DataError`` where it cannot be read, or where no
            trial is complete.
    """
    sweep = load_sweep(directory)
    texts = [text for text in sweep.trials["config"].dropna().unique() if "plugins:" in text]
    use_recorded_plugins(yaml_mapping(text) or {} for text in texts)
    table = _table_section(sweep, settings)
    sweep = sweep.only(only)
    trials = sweep.complete
    if trials.empty:
        found = f"none of {plural(len(sweep.trials), 'trial')} is complete; `fedrecon sweep` continues them"
        raise DataError(f"{directory}: nothing to show: {found}")
    selected = trials["select"].dropna().unique()
    layout = Layout.of(table, sweep.parameters, tuple(selected) or ("accuracy",))
    if shown is None:
        return SweepResults(sweep, trials, layout, Predictions(sweep), _reference(table, settings, directory))
    samples = Shown.parse(shown)  # published values are of all test samples
    predictions = Predictions(sweep, samples)
    trials, faults = _rescored(sweep, trials, predictions, samples)
    return SweepResults(sweep, trials, layout, predictions, shown=samples, faults=faults)


def _table_section(sweep: Sweep, settings: Sequence[str]) -> Table:
    """Return the ``table`` section of the sweep with the changes of the command line, checked."""
    raw = override(dict(sweep.table), settings)
    try:
        found = Table.model_validate(raw)
        found.check(sweep.parameters)
    except ValidationError as error:
        raise UsageError(f"table: {explain(error, raw, Table)}") from None
    except InvalidValueError as error:
        raise UsageError(f"{error.key}: {error}") from None
    return found


def _reference(table: Table, settings: Sequence[str], directory: Path) -> Path | None:
    """Return the file of published values.

    A path on the command line is relative to the caller's folder, a path in the sweep to the sweep's directory.
    """
    if table.reference is None:
        return None
    given = any(setting.partition("=")[0].strip() == "reference" for setting in settings)
    return (Path() if given else directory) / table.reference


def _rescored(
    sweep: Sweep, trials: pd.DataFrame, predictions: Predictions, samples: Shown
) -> tuple[pd.DataFrame, list[PredictionFault]]:
    """Return ``trials`` with scores of only ``samples``, and the reasons why some trials cannot be scored on them.

    Raises:
        DataError: no trial has predictions of such samples.
    """
    names, whole = score_names(trials), Predictions(sweep)
    found, faults = trials.copy(), []
    found[[METRICS + name for name in names]] = float("nan")
    for trial in map(str, trials.index):
        scores = {name: float(sweep.value(trial, METRICS + name)) for name in names}
        scores = {name: score for name, score in scores.items() if not math.isnan(score)}
        try:  # only scores of all samples can be checked against result.json
            check_scores(whole.counts(trial), scores, trial)
            counts = predictions.counts(trial)
        except PredictionsError as error:
            faults.append(error.fault)
            continue
        if counts.groups and counts.missing is not None:
            for name, score in counts.scores(scores).items():
                found.at[trial, METRICS + name] = score
            found.at[trial, MISSING + "test"] = counts.missing
    if found.filter(regex=f"^{METRICS}").isna().all(axis=None):
        reasons = "".join(f"; {fault}" for fault in merged(faults))
        raise DataError(f"--shown: no complete trial has predictions of test samples that show {samples}{reasons}")
    return found, merged(faults)


def score_names(trials: pd.DataFrame) -> list[str]:
    """Return the metrics of which ``trials`` has a column."""
    return [str(column).removeprefix(METRICS) for column in trials if str(column).startswith(METRICS)]


def left_out(sweep: Sweep) -> Iterator[str]:
    """Yield a sentence on the trials that are not complete, if there are any."""
    statuses = {name: str(sweep.value(name, "status")) for name in sweep.names}
    others = [name for name, status in statuses.items() if status != State.COMPLETE]
    if others:
        which = listing([f"{title_of(sweep.labels(name))} ({statuses[name]})" for name in others])
        yield f"Left out, not complete: {len(others)} of {plural(len(sweep.trials), 'trial')}: {which}."


def mixed_provenance(trials: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each difference in the provenance of ``trials``; unknown provenance is not a difference."""
    for column, name in PROVENANCE.items():
        known = trials[column].dropna() if column in trials else ()
        found = Counter(str(value)[:DIGITS] for value in known)
        if len(found) > 1:
            silent = len(trials) - found.total()
            versions = [f"{count} of {version}" for version, count in found.most_common()]
            which = listing([*versions, *([f"{silent} unknown"] if silent else [])])
            computed = f"The {len(trials)} trials were computed with {len(found)} {name} ({which})"
            yield f"{computed}, which may explain differences between them."
