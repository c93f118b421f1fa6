"""The data of a sweep's report, whatever is missing or inconsistent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from fedrecon_core.errors import FedReconError
from server.analysis.results import load_results
from server.analysis.tables import Layout, ScoreTable
from server.analysis.trials import Sweep, load_sweep
from server.sweep.record import SWEEP, State


@dataclass(frozen=True)
class View:
    """A sweep and the comparison of its complete ``trials``.

    ``text`` is ``sweep.yaml`` as it stands, ``fault`` the reason why complete trials could not be compared, ``remarks``
    are sentences on the trials and on the published values.
    """

    directory: Path
    sweep: Sweep
    text: str
    trials: pd.DataFrame
    layout: Layout | None = None
    tables: Sequence[ScoreTable] = ()
    fault: str = ""
    remarks: Sequence[str] = ()

    def count(self, state: State) -> int:
        """Return the number of trials in a state."""
        return int((self.sweep.trials["status"] == state).sum())

    @property
    def sections(self) -> list[ScoreTable]:
        """One table per section, for what does not depend on the metric."""
        first: dict[tuple[tuple[str, str], ...], ScoreTable] = {}
        for table in self.tables:
            first.setdefault(tuple(table.section.items()), table)
        return list(first.values())

    def href(self, path: Path) -> str | None:
        """Return a relative link to a file of the sweep; None if it does not exist or is elsewhere."""
        if not path.is_file() or not path.is_relative_to(self.directory):
            return None
        return quote(path.relative_to(self.directory).as_posix())


def read_view(directory: Path) -> View:
    """Read the sweep in ``directory`` and compare its complete trials.

    Raises:
        DataError: ``directory`` is not the directory of a sweep, or its ``sweep.yaml`` is damaged.
    """
    try:
        results = load_results(directory)
        tables, remarks = results.compared_tables(), results.caveats()
    except FedReconError as error:
        sweep = load_sweep(directory)
        complete = sweep.complete  # if none is complete, that is no fault
        return View(directory, sweep, _text(directory), complete, fault=str(error) if len(complete) else "")
    return View(directory, results.sweep, _text(directory), results.trials, results.layout, tables, remarks=remarks)


def _text(directory: Path) -> str:
    return (directory / SWEEP).read_text(encoding="utf-8", errors="replace")
