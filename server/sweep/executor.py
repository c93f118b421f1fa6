"""Base class of the executors, which run several trials of a sweep at a time, and ``run_trial``, which runs one."""

from __future__ import annotations

import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import RunError, describe_error
from server.runs.directory import RunDirectory
from server.runs.setup import check_run, open_run
from server.sweep.record import LOG, read_result


class LostError(RunError):
    """The machines of an executor are lost, with all trials that were running."""


@dataclass(frozen=True)
class Ended:
    """A run that has ended, and the reason why it did not complete (empty if it did)."""

    path: Path
    reason: str = ""

    @classmethod
    def of(cls, path: Path, default: str) -> Ended:
        """How the run in ``path`` ended according to its ``result.json``; ``default`` is the reason if it has none."""
        result = read_result(path)
        completed = result.get("status") == "completed"
        return cls(path, "" if completed else str(result.get("error") or default))


class Executor(ABC):
    """Executes the runs of prepared run directories, at most ``capacity`` at a time. If the process of a run dies, only
    this run fails."""

    capacity: int

    @abstractmethod
    def start(self, path: Path, config: RunConfig) -> None:
        """Start, or resume, the run in ``path``, which contains ``config``. The caller respects ``capacity``."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Ended]:
        """Wait at most ``seconds`` for a run to end; return those that have ended since the last call.

        Raises:
            LostError: no run can be executed any more; ``close`` is still to be called.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop all running trials at once. They can be resumed from the checkpoints in their run directories."""


def run_trial(path: Path) -> bool:
    """Run, or resume, the prepared run directory ``path`` in this process, with one thread.

    All output goes to the end of its log. Any failure is written to ``result.json``. Returns whether it completed.
    """
    from server.engines.base import Job  # here, since the process of the sweep does not need these imports
    from server.engines.inprocess import InProcess

    directory = RunDirectory(path)
    with _redirected_output(path / LOG):
        try:
            setup = open_run(path)
            setup = replace(setup, server_data=check_run(setup.config))
            InProcess().run(replace(Job.of(setup, resume=True), workers=1))
        except Exception as error:
            traceback.print_exception(error)
            if not directory.result.exists():  # otherwise the ServerApp has written it
                code = getattr(error, "exit_code", 1)
                failure = {"status": "failed", "error": describe_error(error), "exit_code": code, "rounds": 0}
                directory.write_json("result.json", failure)
    return directory.completed()


@contextmanager
def _redirected_output(log: Path) -> Iterator[None]:
    """Append everything that this process writes to stdout and stderr, libraries included, to ``log``."""
    saved = [os.dup(number) for number in (1, 2)]
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, (stream, old) in enumerate(zip((sys.stdout, sys.stderr), saved, strict=True), 1):
            stream.flush()
            os.dup2(old, number)
            os.close(old)
