"""The run directory: paths of a run's files, how they are written, and the lock."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from fedrecon_core.errors import RunError, UsageError
from fedrecon_core.files import is_leftover, reason, remove_leftovers, replace_file, replace_text
from server.runs.readers import json_in, json_mapping

LOCK_SECONDS = 10.0
"""How long a resumed run waits for its previous process, which may be shutting down after it was killed."""


class Words(NamedTuple):
    """The words of messages about a folder: what it contains, and how the user continues it."""

    what: str
    again: str


RUN = Words("run", "resume")


class RunDirectory:
    """One run's folder. JSON files are replaced atomically; JSON lines are appended and flushed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listeners: list[Callable[[str, list[Mapping[str, Any]]], None]] = []

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    @property
    def result(self) -> Path:
        """The file with the result of the run."""
        return self.path / "result.json"

    def completed(self) -> bool:
        """Whether the run is complete."""
        return bool(json_in(self.result).get("status") == "completed")

    def create(self, config_yaml: str) -> None:
        """Create the folder with its config; ``UsageError`` if it has a run already, or if it cannot be written. Files
        that a crash left before the config was written do not count: there is no run to resume."""
        if self.path.is_file():
            raise UsageError(f"--out {self.path} is a file; name a directory that does not exist yet")
        try:
            if self.path.exists() and not all(map(is_leftover, self.path.iterdir())):
                raise UsageError(
                    f"--out {self.path} exists already; choose another directory, or add --resume to continue"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            replace_text(self.config, config_yaml)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None

    @property
    def identity(self) -> str:
        """A unique name, under which sites store their state; a resumed run keeps it. It has its own file, so that the
        other files of equal runs are equal. The caller holds the lock."""
        path = self.path / "identity.txt"
        if not path.exists():
            write_text(path, uuid.uuid4().hex)
        return path.read_text(encoding="utf-8")

    @contextlib.contextmanager
    def lock(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the run for this process alone; see ``held``."""
        with held(self.path, RUN, seconds):
            yield

    def forget_result(self) -> None:
        """Remove the ``result.json`` of an earlier attempt; ``UsageError`` if it cannot be removed."""
        try:
            self.result.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.result, error, RUN) from None

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace the file ``name``."""
        write_text(self.path / name, _json(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in the file ``name``; empty without a file, ``RunError`` if it is unreadable or damaged."""
        path = self.path / name
        try:
            found = json_mapping(path.read_text(encoding="utf-8")) if path.exists() else {}
        except UnicodeDecodeError:
            found = None
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from None
        if found is None:
            hint = "restore it, or remove the run directory to start the run anew"
            raise RunError(f"{path} is damaged: expected a JSON object; {hint}")
        return found

    def listen(self, listener: Callable[[str, list[Mapping[str, Any]]], None]) -> None:
        """Call ``listener`` with a file's name and the new lines whenever lines are appended."""
        self._listeners.append(listener)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """The objects in the JSON lines file ``name``, without a line that a crash cut off; none without a file."""
        path = self.path / name
        return _whole_lines(path) if path.exists() else []

    def append(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON object per line to ``name``, then call the listeners."""
        written = list(lines)
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.writelines(_json(line) + "\n" for line in written)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error.strerror}") from None
        for listener in self._listeners:
            listener(name, written)

    def drop_rounds_after(self, name: str, last: int) -> None:
        """Remove what a resumed run writes again: later rounds, test scores, and a line that a crash cut off."""
        path = self.path / name
        if path.exists():
            kept = [line for line in _whole_lines(path) if line["round"] <= last and line.get("split") != "test"]
            write_text(path, "".join(_json(line) + "\n" for line in kept))


@contextlib.contextmanager
def held(folder: Path, words: Words, seconds: float) -> Iterator[None]:
    """Lock ``folder`` for this process, so that no other one writes to it.

    The lock ends with its process, however that ends. Raises ``RunError`` after waiting ``seconds`` for another
    process, and ``UsageError`` if the folder cannot be written.
    """
    path = folder / "run.lock"
    try:
        file = _claimed(path, words, seconds)
    except OSError as error:
        raise _unwritable(path, error, words) from None
    with file:
        try:
            remove_leftovers(folder)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error, words) from None
        yield


def _claimed(path: Path, words: Words, seconds: float) -> IO[str]:
    """The file at ``path``, locked. Who held it before may have exchanged its folder for another: then the one that was
    waited for lies there no more, and is no lock for anyone else."""
    while True:
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(path.open("a+", encoding="utf-8"))
            _wait_for(file, f"the {words.what} in {path.parent}", words.again, seconds)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                closing.pop_all()
                return file


def _wait_for(file: IO[str], what: str, again: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _locked(file):
        if time.monotonic() > deadline:
            file.seek(0)
            holder = file.read() or "another process"
            raise RunError(f"{what} is being worked on by {holder}; end that, then {again}")
        time.sleep(0.1)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unwritable(path: Path, error: OSError, words: Words) -> UsageError:
    told = f"make room or mend the rights of the {words.what} directory, then {words.again}"
    return UsageError(f"cannot write {path}: {error.strerror}; {told}")


def _json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: a number that is not finite becomes null, since no standard reader takes NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def write_text(path: Path, text: str) -> None:
    """Replace the file whole (``replace_text``); ``RunError`` if it cannot be written."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file whole (``replace_file``); ``RunError`` if it cannot be written."""
    try:
        replace_file(path, write)
    except OSError as error:
        advice = "make room, or mend the rights of its folder"
        raise RunError(f"cannot write {path}: {reason(error)}; {advice}") from None
