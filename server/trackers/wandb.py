"""``wandb``: a run of Weights & Biases; without a ``mode``, stored in the run directory for ``wandb sync``.

Only numbers, config and tags of the run are sent, and W&B's data about itself: no code, console output, list of
packages, or load of the machine.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from server.trackers.base import TRACKERS, TrackedRun, Tracker, TrackerParams
from server.trackers.numbers import numbers_of_result

MINIMAL = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
TIMEOUTS = {"init_timeout": 60.0, "finish_timeout": 60.0, "finish_timeout_raises": True}
"""Seconds that a run waits for a network that is down, at its start and at its end. Data that could not be sent by then
are in the run directory, for ``wandb sync``."""


class WandbParams(TrackerParams):
    """Keys of the tracker; ``mode`` null means the environment's WANDB_MODE or, without it, ``offline``.

    The key of an account is not part of a config: W&B reads it from WANDB_API_KEY or from ``wandb login``, where the
    ServerApp runs.
    """

    project: str = Field(default="fedrecon", min_length=1)
    entity: str | None = None
    group: str | None = None
    mode: Literal["offline", "online"] | None = None


@TRACKERS.register("wandb")
class Wandb(Tracker):
    """Writes a history with the round as its step; test scores and totals are in the summary."""

    Params = WandbParams
    package = "wandb"
    pip = '-c constraints.txt -e ".[wandb]"'
    _run: Any = None
    _failed = True

    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Start a run, or resume it under its id; offline, a resume writes another file of the same run."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        mode = self.params.mode or os.environ.get("WANDB_MODE") or "offline"
        place = {"project": self.params.project, "entity": self.params.entity, "mode": mode}
        known = dict(run.memory) if place.items() <= run.memory.items() else {**place, "id": uuid.uuid4().hex}
        self._run = wandb.init(
            **known,
            group=self.params.group,
            resume="allow" if mode == "online" else None,
            name=run.name,
            dir=str(run.directory),
            config={**run.config, "run": dict(run.tags), **({"cell": dict(run.labels)} if run.labels else {})},
            settings=wandb.Settings(**MINIMAL, **TIMEOUTS, silent=mode != "online"),
        )
        return known

    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round."""
        self._run.log(dict(values), step=round_, commit=True)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Put test scores, totals and the status into the summary."""
        self._run.summary.update({**numbers_of_result(result), "status": str(result["status"])})
        self._failed = result["status"] != "completed"

    def close(self) -> None:
        """Send the remaining data with the exit code of the run, and wait until W&B's own process has ended.

        ``finish`` alone returns before that process has written its files, and on a Ray cluster the run directory is
        sent back at once.
        """
        run, self._run = self._run, None
        if run is None:
            return
        import wandb

        run.finish(exit_code=int(self._failed))
        try:
            wandb.teardown()
        except SystemExit as error:
            raise RuntimeError(f"the process of W&B ended with code {error.code}") from None
