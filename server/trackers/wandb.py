"""``wandb``: a run of Weights & Biases; without a ``mode``, kept in the run directory for ``wandb sync``.

Only numbers, config and tags of the run are handed over, beside what W&B says of itself: no code, no console, no list
of packages, no load of the machine.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from server.trackers.base import TRACKERS, TrackedRun, Tracker, TrackerParams
from server.trackers.numbers import numbers_of_result

NOTHING_ELSE = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
PATIENCE = {"init_timeout": 60.0, "finish_timeout": 60.0, "finish_timeout_raises": True}
"""Seconds that a run waits for a network that is down, at its beginning and at its end. What did not get through by
then lies in the run directory, for ``wandb sync``."""


class WandbParams(TrackerParams):
    """``mode`` null is the environment's WANDB_MODE, else ``offline``. The key of an account does not stand in a
    config: W&B takes it from WANDB_API_KEY or from ``wandb login``, where the ServerApp runs."""

    project: str = Field(default="fedrecon", min_length=1)
    entity: str | None = None
    group: str | None = None
    mode: Literal["offline", "online"] | None = None


@TRACKERS.register("wandb")
class Wandb(Tracker):
    """A history with the round as its step; test scores and totals stand in the summary."""

    Params = WandbParams
    package = "wandb"
    pip = '-c constraints.txt -e ".[wandb]"'
    _run: Any = None
    _failed = True

    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Begin a run, or go on with it under its id; offline that is a further file of the same run."""
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
            settings=wandb.Settings(**NOTHING_ELSE, **PATIENCE, silent=mode != "online"),
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
        """Hand over what is left, with the exit code of the run."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=int(self._failed))
            _wait()


def _wait() -> None:
    """Until W&B's own process has written its files and is gone: ``finish`` alone returns before, and on a Ray cluster
    the run directory is sent back at once. W&B would leave it to the end of the process, and end that with it."""
    import wandb

    try:
        wandb.teardown()
    except SystemExit as error:
        raise RuntimeError(f"the process of W&B ended with code {error.code}") from None
