"""Base class of the trackers: a tracker gets the start of a run, the numbers of each round, and the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fedrecon_core.registry import Registry
from fedrecon_core.types import StrictModel

TRACKERS: Registry[Tracker] = Registry("tracker")
TRACKER_PACKAGES = ("server.trackers",)


class TrackerParams(StrictModel):
    """Base of every tracker's own keys (``tracking.<name>.<key>``)."""


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run for trackers.

    ``config`` is the resolved config without ``tracking``, ``tags`` identify the run (code hash, engine, seed, ...),
    ``labels`` are the parameters and values of a trial of a sweep, empty for other runs. ``last`` is the round of the
    checkpoint from which the run resumes, 0 at its beginning. ``memory`` is what the tracker's ``start`` returned when
    the run began; empty the first time.
    """

    directory: Path
    name: str
    config: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    last: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Tracker(ABC):
    """Base of a tracker, which records runs with one service or in one kind of file.

    A subclass declares its own keys (``Params``) and imports its package late: not before ``start``, since commands
    load every tracker's file. If a method raises, the error is printed once and the run continues without the tracker.
    ``metrics`` gets all numbers of a round at once, since some services accept a step only once.
    """

    Params: ClassVar[type[TrackerParams]] = TrackerParams
    package: ClassVar[str | None] = None
    """Import name of the required package; None if there is none."""
    pip: ClassVar[str] = ""
    """Arguments with which ``python -m pip install`` installs the package."""
    takes_back: ClassVar[bool] = False
    """Whether ``start`` removes the rounds after ``TrackedRun.last``, which a resumed run repeats. A tracker that
    cannot gets each round once, as it was the first time."""

    def __init__(self, params: Any) -> None:
        """``params`` are checked keys, a ``Params`` of this class."""
        self.params = params

    @abstractmethod
    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Begin or resume ``run``. Returns what ``TrackedRun.memory`` should be on a resume (plain JSON)."""

    @abstractmethod
    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a round (from 1), ``<split>/<name>`` -> value; on return they have left the process."""

    @abstractmethod
    def finish(self, result: Mapping[str, Any]) -> None:
        """Record the result of the run: the fields of ``result.json`` (``status``, ``test``, ...)."""

    @abstractmethod
    def close(self) -> None:
        """Close files and connections; the last call, also after a failure of another."""
