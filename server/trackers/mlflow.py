"""``mlflow``: a run in an MLflow store; without an address of one, in a database in the run directory.

MLflow's own default, a folder ``mlruns`` of files, is one that MLflow has given up; the store is SQLite instead.
Its telemetry is off unless the environment says otherwise.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fedrecon_core.errors import ConfigError
from server.trackers.base import TRACKERS, TrackedRun, Tracker, TrackerParams
from server.trackers.numbers import flat, numbers_of_result

DATABASE = "mlflow.db"
ADDRESS = "MLFLOW_TRACKING_URI"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""What holds unless the environment says otherwise: nothing is sent that nobody asked for, and a run does not wait for
a server that is down as long as MLflow would, which is many minutes."""
ABSOLUTE = {"": "/", "file": "file:///", "sqlite": "sqlite:////"}
"""Scheme -> how an address of it begins that names a place on the disk wholly."""
PARAMS_AT_A_TIME = 100
LONGEST_NAME = 250
_ODD = re.compile(r"[^\w\-. :/]")
"""What MLflow takes in no name; keys of a config may hold names of a user's classes."""
STATUSES = {"completed": "FINISHED", "interrupted": "KILLED"}


def _usable(uri: str) -> str:
    """An address without secrets, which would stand in ``config.yaml``, and that means the same wherever the ServerApp
    runs."""
    parts = urlsplit(uri)
    if parts.password or (parts.username and parts.scheme in ("http", "https")):  # a name alone may be a token
        told = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, are the place for it"
        raise ValueError(f"expected an address without a user or password, found one in it; {told}")
    if parts.scheme in ABSOLUTE and not uri.startswith((ABSOLUTE[parts.scheme], "databricks")):
        example = "http://host:5000 or sqlite:////absolute/path.db"
        raise ValueError(f"expected an address such as {example}, found '{uri}', a place relative to some folder")
    return uri


def _beside(directory: Path) -> str:
    """The address of the database in ``directory``; ``ConfigError`` where none can be written: some readers take what
    follows % for a code, and MLflow tries for minutes to open what does not exist then."""
    if set("%?") & set(str(directory)):
        told = "no address of a database can hold % or ?; set tracking.mlflow.uri, or choose another directory"
        raise ConfigError(f"the run directory is {directory}, and {told}")
    return f"sqlite:///{directory / DATABASE}"


@contextlib.contextmanager
def _held(uri: str) -> Iterator[None]:
    """Hold the database, if ``uri`` is one on the disk, for this process alone: of several that make its tables at the
    same time, as cells of a sweep would, one alone succeeds. ``sqlite3.Error`` where it cannot be opened: MLflow tries
    that again for minutes."""
    if not uri.startswith(ABSOLUTE["sqlite"]):
        yield
        return
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version")
    with Path(path).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which SQLite itself does not look at
        yield


class MLflowParams(TrackerParams):
    """``uri`` is a tracking server or store; null is the environment's MLFLOW_TRACKING_URI, else ``RUN/mlflow.db``."""

    uri: str | None = None
    experiment: str = Field(default="fedrecon", min_length=1)

    @field_validator("uri")
    @classmethod
    def _usable_anywhere(cls, uri: str | None) -> str | None:
        return None if uri is None else _usable(uri)


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """Params, tags, and metrics with the round as their step."""

    Params = MLflowParams
    package = "mlflow"
    pip = '-c constraints.txt -e ".[mlflow]"'

    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Make a run in the store, or take up the one that an earlier attempt made there."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        uri = self._uri(run)
        with _held(uri):
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
        place = uri.removeprefix(f"sqlite:///{run.directory}/")  # a run directory may be moved
        known = run.memory if run.memory.get("place") == place else {}
        self._id = str(known.get("run_id") or "") or self._made(run)
        self._client.update_run(self._id, status="RUNNING")
        trial = {f"cell.{_ODD.sub('_', parameter)}": level for parameter, level in run.labels.items()}
        for name, value in {**run.tags, **trial}.items():
            self._client.set_tag(self._id, name, value)
        return {"place": place, "run_id": self._id}

    def _uri(self, run: TrackedRun) -> str:
        found = self.params.uri or os.environ.get(ADDRESS)
        if not found:
            return _beside(run.directory)
        try:
            return _usable(found)
        except ValueError as error:
            raise ConfigError(f"{ADDRESS}: {error}") from None

    def _made(self, run: TrackedRun) -> str:
        """A new run with the config as its params, in the experiment of the name."""
        from mlflow.entities import Param

        made = str(self._client.create_run(self._experiment(), run_name=run.name).info.run_id)
        named = {_ODD.sub("_", key)[:LONGEST_NAME]: str(value) for key, value in flat(run.config).items()}
        params = [Param(name, value) for name, value in named.items()]
        for first in range(0, len(params), PARAMS_AT_A_TIME):
            self._client.log_batch(made, params=params[first : first + PARAMS_AT_A_TIME])
        return made

    def _experiment(self) -> str:
        """The id of the experiment of the name, which is made where there is none. Another run may be quicker."""
        from mlflow.exceptions import MlflowException

        name = self.params.experiment
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self._client.get_experiment_by_name(name).experiment_id)

    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(name, float(value), now, round_) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=logged)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Log test scores at the round that was tested, and how the run ended."""
        values = numbers_of_result(result)
        if values:
            self.metrics(result["best_round"], values)
        if "error" in result:
            self._client.set_tag(self._id, "error", str(result["error"]))
        self._client.set_terminated(self._id, STATUSES.get(str(result["status"]), "FAILED"))

    def close(self) -> None:
        """Nothing stays open."""
