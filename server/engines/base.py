"""Base class of the engines: an engine executes a job and returns when the run has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from fedrecon_core.config import RunConfig
from fedrecon_core.registry import Registry
from server.runs.setup import RunSetup

ENGINES: Registry[Engine] = Registry("engine")

ENGINE_PACKAGES = ("server.engines",)


@dataclass(frozen=True)
class Job:
    """One run for an engine.

    ``config`` is the absolute path of the resolved YAML and ``out`` the absolute run directory. ``sites`` is the number
    of simulated sites; ``workers`` of them run at the same time, each with its own ``cpus`` and ``gpus``.
    ``timeout`` is the number of seconds that a site may take for one message, ``None`` for no limit. Only some engines
    can end a site; with the others the server stops waiting.
    ``components`` names the ServerApp and the ClientApp as ``module:attribute``. ``extra`` holds files and folders to
    copy to the top of a submitted app, next to the four packages; it is for engines that submit an app.
    ``superlink`` is the connection of a deployment, ``ray_address`` an existing Ray cluster; ``settings`` are the
    changes that a resumed deployment makes to the run's own config. ``setup`` is the run as set up by this process, for
    an engine whose ServerApp runs in this process.
    """

    config: Path
    out: Path
    resume: bool
    sites: int
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    timeout: float | None = None
    components: tuple[str, str] = ("server.app:app", "client.app:app")
    extra: tuple[Path, ...] = ()
    superlink: str | None = None
    ray_address: str | None = None
    settings: tuple[str, ...] = ()
    setup: RunSetup | None = None

    @classmethod
    def of(cls, setup: RunSetup, resume: bool = False) -> Self:
        """The job of a simulation that has been set up."""
        config = setup.config
        return cls(
            config=setup.directory.config,
            out=setup.directory.path,
            resume=resume,
            sites=config.sites.count,
            workers=config.engine.workers,
            cpus=config.engine.cpus,
            gpus=config.engine.gpus,
            timeout=config.sites.timeout,
            ray_address=config.engine.ray_address,
            setup=setup,
        )

    def run_config(self) -> dict[str, bool | float | int | str]:
        """The run config that Flower passes to the ServerApp and to the sites."""
        return {"config": str(self.config), "out": str(self.out), "resume": self.resume}


class Engine(ABC):
    """Executes a run from its first round to its last."""

    shows_progress: ClassVar[bool] = False
    """Whether the ServerApp's own progress reaches the terminal; otherwise the command follows the metrics file."""

    @classmethod  # noqa: B027 - most engines have nothing to prepare
    def prepare(cls, config: RunConfig) -> None:
        """Start what takes time in the background while the run of ``config`` is checked; by default nothing."""

    @abstractmethod
    def run(self, job: Job) -> None:
        """Execute ``job`` and return when it has completed.

        Raises:
            FedReconError: the run failed; the message is one line. A ``RunError`` unless the ServerApp found a fault in
                the config or the data.
        """
