"""``mlflow``: a run in an MLflow store; without an address of one, in a database in the run directory.

The store is SQLite, because MLflow no longer develops its own default, a folder ``mlruns`` of files. Telemetry is off
unless the environment turns it on.
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
"""Defaults of environment variables: no telemetry, and less waiting for a server that is down (MLflow's own defaults
wait for many minutes)."""
ABSOLUTE = {"": "/", "file": "file:///", "sqlite": "sqlite:////"}
"""Scheme -> prefix of its addresses with an absolute path."""
PARAMS_AT_A_TIME = 100
LONGEST_NAME = 250
_INVALID = re.compile(r"[^\w\-. :/]")
"""Characters that MLflow does not accept in names; keys of a config may contain a user's names of classes."""
STATUSES = {"completed": "FINISHED", "interrupted": "KILLED"}


def _checked(uri: str) -> str:
    """Return ``uri`` if it has no secrets, which would be written to ``config.yaml``, and no relative path.

    Raises:
        ValueError: it has.
    """
    parts = urlsplit(uri)
    if parts.password or (parts.username and parts.scheme in ("http", "https")):  # a name alone may be a token
        advice = "use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead"
        raise ValueError(f"expected an address without a user or password, found one in it; {advice}")
    if parts.scheme in ABSOLUTE and not uri.startswith((ABSOLUTE[parts.scheme], "databricks")):
        example = "http://host:5000 or sqlite:////absolute/path.db"
        raise ValueError(f"expected an address such as {example}, found '{uri}', which is relative to some folder")
    return uri


@contextlib.contextmanager
def _locked(uri: str) -> Iterator[None]:
    """Lock the database at ``uri`` for this process, if it is an SQLite file.

    If several processes, such as trials of a sweep, created its tables at the same time, all but one would fail.

    Raises:
        sqlite3.Error: the database cannot be opened. MLflow itself would try again for minutes.
    """
    if not uri.startswith(ABSOLUTE["sqlite"]):
        yield
        return
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version")
    with Path(path).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # SQLite itself ignores this lock
        yield


class MLflowParams(TrackerParams):
    """Keys of the tracker.

    ``uri``: a tracking server or store; null means the environment's MLFLOW_TRACKING_URI or, without it,
    ``RUN/mlflow.db``.
    """

    uri: str | None = None
    experiment: str = Field(default="fedrecon", min_length=1)

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        return None if uri is None else _checked(uri)


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """Writes params, tags, and metrics with the round as their step."""

    Params = MLflowParams
    package = "mlflow"
    pip = '-c constraints.txt -e ".[mlflow]"'

    def start(self, run: TrackedRun) -> dict[str, Any]:
        """Create a run in the store, or resume the one that an earlier attempt created there."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        uri = self._uri(run)
        with _locked(uri):
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
        place = uri.removeprefix(f"sqlite:///{run.directory}/")  # a run directory may be moved
        known = run.memory if run.memory.get("place") == place else {}
        self._id = str(known.get("run_id") or "") or self._create_run(run)
        self._client.update_run(self._id, status="RUNNING")
        trial = {f"cell.{_INVALID.sub('_', parameter)}": level for parameter, level in run.labels.items()}
        for name, value in {**run.tags, **trial}.items():
            self._client.set_tag(self._id, name, value)
        return {"place": place, "run_id": self._id}

    def _uri(self, run: TrackedRun) -> str:
        """Return the address of the store.

        Raises:
            ConfigError: it cannot be used. Some readers decode % in the address of a database, and MLflow tries for
                minutes to open the wrong path.
        """
        found = self.params.uri or os.environ.get(ADDRESS)
        if found:
            try:
                return _checked(found)
            except ValueError as error:
                raise ConfigError(f"{ADDRESS}: {error}") from None
        if set("%?") & set(str(run.directory)):
            advice = "set tracking.mlflow.uri, or choose another directory"
            expected = "the address of a database cannot contain % or ?"
            raise ConfigError(f"the run directory is {run.directory}, and {expected}; {advice}")
        return f"sqlite:///{run.directory / DATABASE}"

    def _create_run(self, run: TrackedRun) -> str:
        """Create a run, with the config as its params, in the experiment of the configured name; return its id."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        name = self.params.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run may have just created it
                    raise
            experiment = self._client.get_experiment_by_name(name)
        id_ = str(self._client.create_run(str(experiment.experiment_id), run_name=run.name).info.run_id)
        values = {_INVALID.sub("_", key)[:LONGEST_NAME]: str(value) for key, value in flat(run.config).items()}
        params = [Param(key, value) for key, value in values.items()]
        for first in range(0, len(params), PARAMS_AT_A_TIME):
            self._client.log_batch(id_, params=params[first : first + PARAMS_AT_A_TIME])
        return id_

    def metrics(self, round_: int, values: Mapping[str, float]) -> None:
        """Log a round, in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        logged = [Metric(name, float(value), now, round_) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=logged)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Log test scores, with the round that was tested as their step, and the status of the run."""
        values = numbers_of_result(result)
        if values:
            self.metrics(result["best_round"], values)
        if "error" in result:
            self._client.set_tag(self._id, "error", str(result["error"]))
        self._client.set_terminated(self._id, STATUSES.get(str(result["status"]), "FAILED"))

    def close(self) -> None:
        """Do nothing: no connection stays open."""
