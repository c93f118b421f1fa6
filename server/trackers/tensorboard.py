"""``tensorboard``: event files in the run directory, the only tracker that is on by default.

PyTorch's own writer writes them through the package ``tensorboard``. A package that only writes event files would be
36 MB smaller, but could not display them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from server.trackers.base import TRACKERS, TrackedRun, Tracker
from server.trackers.numbers import numbers_of_result

FOLDER = "tensorboard"


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Writes a scalar per number to ``RUN/tensorboard``; test scores have the round that was tested as their step."""

    package = "tensorboard"
    pip = "-c constraints.txt tensorboard"
    takes_back = True
    _writer: Any = None

    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Open a new event file; rounds that a resumed run repeats are purged from the existing ones."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.directory / FOLDER), purge_step=run.last + 1)
        if not run.memory:
            text = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True)
            self._writer.add_text("config", f"```yaml\n{text}```")
        return {"folder": FOLDER}

    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a round."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, round_)
        self._writer.flush()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the test scores and totals of a completed run."""
        for tag, value in numbers_of_result(result).items():
            self._writer.add_scalar(tag, value, result["best_round" if tag.startswith("test/") else "rounds"])

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
