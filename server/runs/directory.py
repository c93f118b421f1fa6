"""The run directory: paths of a run's files, how they are written, and the lock."""

from __future__ import annotations

import contextlib
import errno
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
"""How long a resumed run waits for its previous process, which may still be shutting down."""


class FolderKind(NamedTuple):
    """Kind of a folder, as messages name it ("run"), and how the user resumes the work in it ("resume")."""

    name: str
    how_to_resume: str


RUN = FolderKind("run", "resume")


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

    def check_new(self) -> None:
        """Raise ``UsageError`` if no new run can be created here.

        Files that a crash left before the config was written do not count: there is no run to resume.
        """
        try:
            if self.path.is_file():
                raise UsageError(f"--out {self.path} is a file; name a directory that does not exist yet")
            if self.path.exists() and not all(map(is_leftover, self.path.iterdir())):
                raise UsageError(
                    f"--out {self.path} exists already; choose another directory, or add --resume to continue"
                )
            above = next(path for path in (self.path, *self.path.parents) if path.exists())
            if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
                code = errno.EACCES if above.is_dir() else errno.ENOTDIR
                raise OSError(code, os.strerror(code))
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None

    def create(self, config_yaml: str) -> None:
        """Create the folder with its config; ``UsageError`` if there is a run already, or if it cannot be written."""
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            replace_text(self.config, config_yaml)
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror}") from None

    @property
    def identity(self) -> str:
        """Unique name under which sites store their state; a resumed run keeps it.

        It has its own file, so that the other files of equal runs are equal. The caller holds the lock.
        """
        path = self.path / "identity.txt"
        if not path.exists():
            write_text(path, uuid.uuid4().hex)
        return path.read_text(encoding="utf-8")

    @contextlib.contextmanager
    def lock(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Lock the run for this process; see ``locked``."""
        with locked(self.path, RUN, seconds):
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
        """Return the JSON object in the file ``name``; empty if there is no file.

        Raises:
            RunError: the file cannot be read, or is damaged.
        """
        path = self.path / name
        try:
            found = json_mapping(path.read_text(encoding="utf-8")) if path.exists() else {}
        except UnicodeDecodeError:
            found = None
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from None
        if found is None:
            hint = "restore it, or remove the run directory to start the run again"
            raise RunError(f"{path} is damaged: expected a JSON object; {hint}")
        return found

    def listen(self, listener: Callable[[str, list[Mapping[str, Any]]], None]) -> None:
        """Call ``listener`` with a file's name and the new lines whenever lines are appended."""
        self._listeners.append(listener)

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in the JSON lines file ``name``, up to the first damaged line; none without a file."""
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
        """Remove lines that a resumed run writes again: later rounds, test scores, and an incomplete last line."""
        path = self.path / name
        if path.exists():
            kept = [line for line in _whole_lines(path) if line["round"] <= last and line.get("split") != "test"]
            write_text(path, "".join(_json(line) + "\n" for line in kept))


@contextlib.contextmanager
def locked(folder: Path, kind: FolderKind, seconds: float) -> Iterator[None]:
    """Lock ``folder`` for this process, so that no other one writes to it.

    The lock ends with its process, however that ends.

    Raises:
        RunError: another process still has the lock after ``seconds``.
        UsageError: the folder cannot be written.
    """
    path = folder / "run.lock"
    try:
        file = _open_locked(path, kind, seconds)
    except OSError as error:
        raise _unwritable(path, error, kind) from None
    with file:
        try:
            remove_leftovers(folder)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error, kind) from None
        yield


def _open_locked(path: Path, kind: FolderKind, seconds: float) -> IO[str]:
    """Open and lock the file at ``path``.

    The previous holder of the lock may have replaced the whole folder. Then the file that was locked no longer exists
    at ``path`` and excludes nobody, so the new one is locked.
    """
    while True:
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(path.open("a+", encoding="utf-8"))
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        file.seek(0)
                        where, holder = f"the {kind.name} in {path.parent}", file.read() or "another process"
                        message = f"{where} is in use by {holder}; end that process, then {kind.how_to_resume}"
                        raise RunError(message) from None
                time.sleep(0.1)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                closing.pop_all()
                return file


def _unwritable(path: Path, error: OSError, kind: FolderKind) -> UsageError:
    advice = f"free disk space or correct the permissions of the {kind.name} directory, then {kind.how_to_resume}"
    return UsageError(f"cannot write {path}: {error.strerror}; {advice}")


def _json(value: Any, indent: int | None = None) -> str:
    """Return strict JSON: a number that is not finite becomes null, because standard readers do not accept NaN."""
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


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, the newest last."""
    return sorted(folder.glob("round-*")) if folder.is_dir() else []


def newest_round(folder: Path) -> int:
    """The round of the newest checkpoint in ``folder``; 0 if there is none."""
    found = checkpoint_folders(folder)
    return int(found[-1].name.removeprefix("round-")) if found else 0


def write_text(path: Path, text: str) -> None:
    """Replace the file atomically (``replace_text``); ``RunError`` if it cannot be written."""
    try:
        replace_text(path, text)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace the file atomically (``replace_file``); ``RunError`` if it cannot be written."""
    try:
        replace_file(path, write)
    except OSError as error:
        advice = "free disk space, or correct the permissions of its folder"
        raise RunError(f"cannot write {path}: {reason(error)}; {advice}") from None
