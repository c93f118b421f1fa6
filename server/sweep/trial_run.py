"""One cell, run in a process of its own: what ``fedrecon run`` does, with all that it says in a file beside the run."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from fedrecon_core.errors import describe_error
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.directory import RunDirectory
from server.runs.setup import check_run, load_config


def run_trial(path: Path, log: Path) -> bool:
    """Run what is left of the run in ``path`` (a run directory with its config), in this process, with one thread.

    Whether it completed. Whatever it says goes to the end of ``log``. A failure of any kind leaves ``result.json`` with
    the reason.
    """
    with _speaking_into(log):
        try:
            _run(path)
        except Exception as error:
            _note_failure(RunDirectory(path), error)
    return RunDirectory(path).completed()


def _run(path: Path) -> None:
    config = load_config(path / "config.yaml")
    check_run(config)
    InProcess().run(Job(path / "config.yaml", path, True, config.sites.count, timeout=config.sites.timeout))


def _note_failure(directory: RunDirectory, error: Exception) -> None:
    traceback.print_exception(error)
    if not directory.result.exists():  # the ServerApp leaves its own
        code = getattr(error, "exit_code", 1)
        told = {"status": "failed", "error": describe_error(error), "exit_code": code, "rounds": 0}
        directory.write_json("result.json", told)


@contextlib.contextmanager
def _speaking_into(log: Path) -> Iterator[None]:
    """Everything that this process writes, its libraries included, goes to the end of ``log``."""
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
