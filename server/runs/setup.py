"""From a config file and settings to a resolved config and a run directory, with every path made absolute."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.config.loading import override, read_yaml
from fedrecon_core.data.allocation import allocate
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.errors import ConfigError, UsageError
from fedrecon_core.files import user_path
from fedrecon_core.metrics.base import check_select
from fedrecon_core.recovery.base import Recovery, recovery_for
from fedrecon_core.registry import CORE_PACKAGES, discover
from fedrecon_core.runtime import choose_device
from fedrecon_core.types import DatasetSpec
from server.runs.directory import RunDirectory, write_text
from server.trackers.choice import check_keys, trackers_of

QUICKSTART = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
PACKAGES = (*CORE_PACKAGES, "strategies")
WAITING = tuple(f"sites.{key}=" for key in ("min", "wait", "timeout", "quorum", "retries"))
RESUMABLE = ("engine.", *WAITING, "updates.limit=", "tracking.")
"""What a resume may set: where a run goes on, how long it waits for whom, whom it believes, and whom it tells."""


@dataclass(frozen=True)
class RunSetup:
    """A checked config and the directory that its run writes."""

    config: RunConfig
    directory: RunDirectory
    settings: tuple[str, ...] = ()
    """What a resume changes of the run's own config; it is written down by the process that takes the run up."""


def load_config(path: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """As ``resolve_config``; ``ConfigError`` where nothing lies at ``data.root``."""
    config = resolve_config(path, settings)
    check_root(config)
    return config


def resolve_config(path: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """The config in ``path`` (default: quickstart) with ``settings`` applied and ``data.root`` made absolute, wherever
    its data are."""
    discover(PACKAGES)
    source = QUICKSTART if path is None else path
    raw = override(read_yaml(source), settings)
    return parse(_rooted(raw, source.resolve().parent))


def _rooted(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("root"), str):
        return raw
    return {**raw, "data": {**data, "root": str(user_path(data["root"], base, "data.root"))}}


def check_root(config: RunConfig) -> None:
    """``ConfigError`` where ``data.root`` names something that does not exist."""
    root = config.data.root
    if root is not None and not Path(root).exists():
        told = "a path that is not absolute begins at the config file"
        raise ConfigError(f"data.root: expected an existing folder or file, found no {root} ({told})")


def create_run(path: Path | None, settings: Sequence[str] = (), out: Path | None = None) -> RunSetup:
    """A new run: its config, checked against its data, in a fresh directory (default ``runs/<name>-<UTC time>``)."""
    config = load_config(path, settings)
    check_run(config)
    directory = RunDirectory((out or default_directory(config.name)).resolve())
    directory.create(config.to_yaml())
    return RunSetup(config, directory)


def check_run(config: RunConfig) -> None:
    """Load the data, share them out and build the models, so that a fault shows before anything is written. What only
    the sites of a deployment hold shows in the handshake."""
    check_trackers(config)
    choose_device(config.device)
    if not config.has_central_data:
        _check_owned(config)
        return
    dataset = load_dataset(config)
    recovery = checked_recovery(config, dataset.spec)
    allocate(dataset, config)
    recovery.build()


def check_trackers(config: RunConfig) -> None:
    """``ConfigError`` for a tracker, or a key of one, that does not exist; and where the ServerApp runs on this
    machine, for one whose package is not installed."""
    (trackers_of if config.engine.simulated else check_keys)(config)


def checked_recovery(config: RunConfig, spec: DatasetSpec) -> Recovery:
    """The run's recovery for data of ``spec``; ``ConfigError`` where a key has no meaning for them."""
    check_select(config.evaluate.select, spec)
    config.strategy.check_data(spec)
    recovery = recovery_for(config, spec)
    config.strategy.check_groups(recovery.builders().keys())
    return recovery


def _check_owned(config: RunConfig) -> None:
    if config.data.name != "sites":
        told = "or evaluate.where: server, if the server should score on its held-out part"
        raise ConfigError(
            f"data.name: expected sites, whose data a deployment trains on, {told}; found {config.data.name}"
        )


def default_directory(name: str) -> Path:
    """``runs/<name>-<UTC time>``, with a number behind it where two runs start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    first = Path("runs") / f"{name}-{stamp}"
    return next(path for n in count(1) if not (path := first if n == 1 else Path(f"{first}-{n}")).exists())


def resume_run(out: Path, settings: Sequence[str] = ()) -> RunSetup:
    """An existing run, to be resumed: its own ``config.yaml`` counts, but for ``settings`` that are ``RESUMABLE``.

    The run is judged and its config changed under the lock, so that one in its last seconds ends in peace. The lock is
    free again on return: it belongs to the ServerApp, which may be another process and judges once more (``claim``).
    """
    directory = existing_run(out)
    check_resume_settings(settings)
    with directory.lock():
        _refuse_completed(directory)
        begun = load_config(directory.config).engine.name
        named = [setting.partition("=")[2] for setting in settings if setting.startswith("engine.name=")]
        check_engine_kind(directory, begun, [begun, *named][-1])
        prepared = RunSetup(load_config(directory.config, settings), directory)
        check_trackers(prepared.config)
        if settings:
            write_text(directory.config, prepared.config.to_yaml())
    return prepared


def check_resume_settings(settings: Sequence[str]) -> None:
    """``UsageError`` for a setting that a resume cannot change: with it the run would not be the one that was begun."""
    strange = [setting for setting in settings if not setting.startswith(RESUMABLE)]
    if strange:
        known = ", ".join(f"{key}*" if key.endswith(".") else key.removesuffix("=") for key in RESUMABLE)
        told = f"only these may be set: {known}"
        raise UsageError(f"--resume continues the run's own config; '{strange[0]}' would change it ({told})")


def check_engine_kind(directory: RunDirectory, begun: str, now: str) -> None:
    """``UsageError`` where a simulation would go on as a deployment, or the other way round."""
    if (begun == "deployment") != (now == "deployment"):
        out = shlex.quote(str(directory.path))
        told = f"fedrecon run --resume --out {out}{' --engine deployment' if begun == 'deployment' else ''}"
        reason = f"the run in {directory.path} was begun with engine {begun}, and engine {now} has other sites and data"
        raise UsageError(f"{reason}; go on with: {told}")


def existing_run(out: Path) -> RunDirectory:
    """The run directory at ``out``; ``UsageError`` if it is none."""
    directory = RunDirectory(out.resolve())
    if not directory.config.is_file():
        raise UsageError(f"--resume: {directory.path} is no run directory (it has no config.yaml)")
    return directory


def open_run(out: Path, settings: Sequence[str] = ()) -> RunSetup:
    """An existing run, read without its lock: nothing is judged and nothing written before ``claim``."""
    directory = existing_run(out)
    check_resume_settings(settings)
    return RunSetup(load_config(directory.config, settings), directory, tuple(settings))


def start_run(prepared: RunSetup) -> RunSetup:
    """What the process that holds the lock does first: see that the run is not complete by now, read its config as it
    is now, write down what the resume changes, and take away the result of an earlier attempt."""
    directory = prepared.directory
    _refuse_completed(directory)
    found = open_run(directory.path, prepared.settings)
    if found.settings:
        write_text(directory.config, found.config.to_yaml())
    directory.forget_result()
    return found


def _refuse_completed(directory: RunDirectory) -> None:
    if directory.completed():
        raise UsageError(f"the run in {directory.path} is complete; there is nothing to resume")
