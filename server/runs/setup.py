"""Set up a run: from a config file and settings to a checked config, its data and a run directory.

A process loads, checks and resolves its config once. Everything after that gets a ``RunSetup``.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrecon_core.config import RunConfig, parse
from fedrecon_core.config.loading import override, read_yaml
from fedrecon_core.errors import ConfigError, UsageError
from fedrecon_core.files import user_path
from fedrecon_core.metrics.base import check_select
from fedrecon_core.plugins import installed
from fedrecon_core.registry import CORE_PACKAGES, DATA_PACKAGES, METRIC_PACKAGES, discover, use_plugins
from fedrecon_core.runtime import choose_device
from fedrecon_core.types import DatasetSpec
from server.runs.directory import RunDirectory, write_text
from server.runs.record import entries
from server.trackers.choice import check_keys, trackers_of

if TYPE_CHECKING:  # commands that only show results do without PyTorch
    from fedrecon_core.data.allocation import ServerData
    from fedrecon_core.recovery.base import Recovery

APP = Path(__file__).resolve().parents[2]
"""The folder of the packages and the configs, in a checkout, a wheel and a submitted app alike."""
QUICKSTART = APP / "configs" / "quickstart.yaml"
PACKAGES = (*CORE_PACKAGES, "strategies")
"""The packages whose modules are searched for registered classes."""
RESUMABLE = (
    "engine.",
    *(f"sites.{key}=" for key in ("min", "wait", "timeout", "quorum", "retries")),
    "updates.limit=",
    "tracking.",
)
"""The settings that a resume may change: the engine, the waiting for sites and their number, the limit of updates, and
the trackers."""


def discover_data() -> None:
    """Import every data set and feature, also of all installed plugins, for commands without a config."""
    discover(DATA_PACKAGES)
    use_plugins(installed())


def use_recorded_plugins(configs: Iterable[Mapping[str, Any]]) -> None:
    """Import the metrics, also of the plugins in the recorded ``configs``, as far as they are installed."""
    discover(METRIC_PACKAGES)
    named = {str(name) for config in configs for name in entries(config.get("plugins"))}
    use_plugins(sorted(named & installed().keys()) if named else ())


@dataclass(frozen=True)
class RunSetup:
    """A checked config and the directory of its run.

    ``settings`` are the changes of a resume, which ``start_run`` writes into ``config.yaml``. ``server_data``
    are the data of the server with their allocation, where they have been loaded already.
    """

    config: RunConfig
    directory: RunDirectory
    settings: tuple[str, ...] = ()
    server_data: ServerData | None = None


_shared: ContextVar[RunSetup | None] = ContextVar("shared", default=None)


@contextlib.contextmanager
def share_setup(setup: RunSetup | None) -> Iterator[None]:
    """Let ``open_run`` return ``setup`` inside the block.

    A ServerApp that runs in the process of the command then does not load the config a second time.
    """
    token = _shared.set(setup)
    try:
        yield
    finally:
        _shared.reset(token)


# --- the config -----------------------------------------------------------------------------------------------------


def load_config(path: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """Load a config as ``resolve_config`` does; ``ConfigError`` if ``data.root`` does not exist."""
    config = resolve_config(path, settings)
    check_root(config)
    return config


def resolve_config(path: Path | None, settings: Sequence[str] = ()) -> RunConfig:
    """Load the config in ``path`` (default: the quickstart), apply ``settings`` and make ``data.root`` absolute."""
    source = QUICKSTART if path is None else path
    return resolve_raw(read_yaml(source), source, settings)


def resolve_raw(raw: dict[str, Any], source: Path, settings: Sequence[str] = ()) -> RunConfig:
    """Resolve the config ``raw`` as ``resolve_config`` does; a relative ``data.root`` starts at the folder of
    ``source``."""
    discover(PACKAGES)
    raw = override(raw, settings)
    data = raw.get("data")
    if isinstance(data, dict) and isinstance(data.get("root"), str):
        root = user_path(data["root"], source.resolve().parent, "data.root")
        raw = {**raw, "data": {**data, "root": str(root)}}
    return parse(raw)


def check_root(config: RunConfig) -> None:
    """Raise ``ConfigError`` if ``data.root`` does not exist."""
    root = config.data.root
    if root is not None and not Path(root).exists():
        hint = "a path that is not absolute begins at the config file"
        raise ConfigError(f"data.root: expected an existing folder or file, found no {root} ({hint})")


def check_run(config: RunConfig) -> ServerData | None:
    """Load and allocate the data and build the models, so that faults show before anything is written.

    Returns the data that the server opens; None in a deployment where only the sites have data, which are checked at
    registration.

    Raises:
        UsageError: for the first fault.
    """
    from fedrecon_core.data.allocation import ServerData, allocate
    from fedrecon_core.data.dataset import load_dataset

    check_trackers(config)
    choose_device(config.device)
    if not config.has_central_data:
        if config.data.name != "sites":
            hint = "or evaluate.where: server, if the server should score on its held-out part"
            raise ConfigError(
                "data.name: expected sites, since a deployment trains on the data of its sites, "
                f"{hint}; found {config.data.name}"
            )
        return None
    dataset = load_dataset(config)
    recovery = checked_recovery(config, dataset.spec)
    server_data = ServerData(dataset, allocate(dataset, config))
    recovery.build()
    return server_data


def check_trackers(config: RunConfig) -> None:
    """Raise ``ConfigError`` for an unknown tracker or key of a tracker.

    If the ServerApp runs on this machine, also for a tracker whose package is not installed.
    """
    (trackers_of if config.engine.simulated else check_keys)(config)


def checked_recovery(config: RunConfig, spec: DatasetSpec) -> Recovery:
    """Return the run's recovery for data of ``spec``; ``ConfigError`` if a config key does not apply to such data."""
    from fedrecon_core.recovery.base import recovery_for

    check_select(config.evaluate.select, spec)
    config.strategy.check_data(spec)
    recovery = recovery_for(config, spec)
    config.strategy.check_groups(recovery.builders().keys())
    return recovery


# --- the run directory ----------------------------------------------------------------------------------------------


def create_run(path: Path | None, settings: Sequence[str] = (), out: Path | None = None) -> RunSetup:
    """Set up a new run from the config in ``path``; see ``create_run_of``."""
    return create_run_of(load_config(path, settings), out)


def create_run_of(config: RunConfig, out: Path | None = None) -> RunSetup:
    """Check ``config`` against its data and write it into a new run directory ``out`` (``default_directory``)."""
    server_data = check_run(config)
    directory = RunDirectory((out or default_directory(config.name)).resolve())
    directory.create(config.to_yaml())
    return RunSetup(config, directory, server_data=server_data)


def default_directory(name: str) -> Path:
    """Return ``runs/<name>-<UTC time>``, with a number appended if two runs start in the same second."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    first = Path("runs") / f"{name}-{stamp}"
    return next(path for n in count(1) if not (path := first if n == 1 else Path(f"{first}-{n}")).exists())


def existing_run(out: Path) -> RunDirectory:
    """Return the run directory at ``out``; ``UsageError`` if there is none."""
    directory = RunDirectory(out.resolve())
    if not directory.config.is_file():
        raise UsageError(f"--resume: {directory.path} is not a run directory (it has no config.yaml)")
    return directory


def resume_run(out: Path, settings: Sequence[str] = ()) -> RunSetup:
    """Set up the resume of the run in ``out``, with its own ``config.yaml`` changed by ``settings`` (``RESUMABLE``).

    The state of the run is checked, and its config changed, under the run's lock. The lock is released on return. The
    ServerApp, possibly in another process, locks the run again and checks it once more (``start_run``).
    """
    directory = existing_run(out)
    check_resume_settings(settings)
    with directory.lock():
        _check_not_complete(directory)
        raw = read_yaml(directory.config)
        engine = raw.get("engine")
        begun = str(engine.get("name", "")) if isinstance(engine, dict) else ""
        named = [setting.partition("=")[2] for setting in settings if setting.startswith("engine.name=")]
        check_engine_kind(directory, begun, [begun, *named][-1])
        config = resolve_raw(raw, directory.config, settings)
        check_root(config)
        check_trackers(config)
        if settings:
            write_text(directory.config, config.to_yaml())
    return RunSetup(config, directory)


def check_resume_settings(settings: Sequence[str]) -> None:
    """Raise ``UsageError`` for a setting that a resume cannot change, because the run would become another one."""
    strange = [setting for setting in settings if not setting.startswith(RESUMABLE)]
    if strange:
        known = ", ".join(f"{key}*" if key.endswith(".") else key.removesuffix("=") for key in RESUMABLE)
        hint = f"only these may be set: {known}"
        raise UsageError(f"--resume continues the run's own config; '{strange[0]}' would change it ({hint})")


def check_engine_kind(directory: RunDirectory, begun: str, now: str) -> None:
    """Raise ``UsageError`` if a simulation would be resumed as a deployment, or a deployment as a simulation."""
    if (begun == "deployment") != (now == "deployment"):
        out = shlex.quote(str(directory.path))
        command = f"fedrecon run --resume --out {out}{' --engine deployment' if begun == 'deployment' else ''}"
        reason = f"the run in {directory.path} was begun with engine {begun}, and engine {now} has other sites and data"
        raise UsageError(f"{reason}; resume with: {command}")


def open_run(out: Path, settings: Sequence[str] = ()) -> RunSetup:
    """Read the run in ``out`` without its lock; nothing is written, and ``start_run`` checks its state."""
    shared = _shared.get()
    if shared is not None and not settings and shared.directory.path == out.resolve():
        return shared
    directory = existing_run(out)
    check_resume_settings(settings)
    return RunSetup(load_config(directory.config, settings), directory, tuple(settings))


def submitted_run(config: str, out: str, resume: bool, settings: str) -> RunSetup:
    """Set up the run that the run config of ``flwr run``, or of a deployment's command, describes.

    ``config``: a file that came with the app, or on this machine (empty: the quickstart); ``out``: the run directory
    (empty: a default); ``settings``: the changes of a deployment's resume, as a JSON list of "key=value".
    """
    if not resume:
        shipped = APP / config
        path = (shipped if shipped.is_file() else Path(config)) if config else None
        return create_run(path, out=Path(out) if out else None)
    if not out:
        raise UsageError("resume needs out, the directory of the run to resume")
    setup = open_run(Path(out), json.loads(settings or "[]"))
    if settings:
        check_engine_kind(setup.directory, setup.config.engine.name, "deployment")
    return setup


def start_run(setup: RunSetup) -> RunSetup:
    """Start or resume the run; the caller holds its lock.

    Checks that the run is not complete, reads its config again if another process changed it, writes the changes of a
    resume, and removes the result of an earlier attempt.
    """
    directory = setup.directory
    _check_not_complete(directory)
    if setup.settings or existing_run(directory.path).config.read_text(encoding="utf-8") != setup.config.to_yaml():
        config = load_config(directory.config, setup.settings)
        setup = RunSetup(config, directory, setup.settings)
    if setup.settings:
        write_text(directory.config, setup.config.to_yaml())
    directory.forget_result()
    return setup


def _check_not_complete(directory: RunDirectory) -> None:
    if directory.completed():
        raise UsageError(f"the run in {directory.path} is complete; there is nothing to resume")
