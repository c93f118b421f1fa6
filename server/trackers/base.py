"""What a tracker is: it hears how a run begins, the numbers of each round, and how the run ends."""

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
    """A run as a tracker learns of it.

    ``config`` is the resolved config without ``tracking``, ``tags`` are what names the run beside it (code hash,
    engine, seed, ...), ``labels`` the axes and levels of a cell of a sweep, none of a run by itself. ``last`` is the
    round of the checkpoint that the run goes on from, 0 at its beginning. ``memory`` is what the tracker's ``start``
    returned when the run was begun; empty the first time.
    """

    directory: Path
    name: str
    config: Mapping[str, Any]
    tags: Mapping[str, str] = field(default_factory=dict)
    last: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


class Tracker(ABC):
    """Tells one service, or one kind of file, of a run.

    A subclass names its own keys (``Params``) and imports its package late: nothing of it may be imported before
    ``start``, since commands and sites load every tracker's file. Whatever a method raises is told once, and the run
    goes on without the tracker. ``metrics`` takes the numbers of a round at once and not split by split, for some
    services know a step only as a whole.
    """

    Params: ClassVar[type[TrackerParams]] = TrackerParams
    package: ClassVar[str | None] = None
    """The package that it needs, as it is imported; None if it needs none."""
    pip: ClassVar[str] = ""
    """What stands behind ``python -m pip install`` to get it."""
    takes_back: ClassVar[bool] = False
    """Whether ``start`` removes the rounds after ``TrackedRun.last``, which a resumed run repeats. A tracker that
    cannot hears each round once, as it was the first time."""

    def __init__(self, params: Any) -> None:
        """``params`` are checked keys, a ``Params`` of this class."""
        self.params = params

    @abstractmethod
    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Begin, or go on with, ``run``. Returns what should be known when it is resumed (plain JSON)."""

    @abstractmethod
    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """The numbers of a round (from 1), ``<split>/<name>`` -> value; they are out of the process on return."""

    @abstractmethod
    def finish(self, result: Mapping[str, Any]) -> None:
        """How the run ended: the fields of ``result.json`` (``status``, ``test``, ...)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; the last call, also after a failure of the others."""
