"""What an engine is: it takes a job and returns when the run has ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedrecon_core.registry import Registry

ENGINES: Registry[Engine] = Registry("engine")

ENGINE_PACKAGES = ("server.engines",)


@dataclass(frozen=True)
class Job:
    """One run for an engine.

    ``config`` is the absolute path of the resolved YAML and ``out`` the absolute run directory. ``sites`` is the number
    of simulated sites; ``workers`` of them run at the same time, each with ``cpus`` and ``gpus`` of its own.
    ``timeout`` is how many seconds a site may take for one message, ``None`` for as long as it likes; only an engine
    that can end a site reads it, with the others the server stops waiting.
    ``components`` names the ServerApp and the ClientApp as ``module:attribute``. ``extra`` holds files and folders that
    are copied to the top of a submitted app beside the four packages; only engines that submit an app read it.
    ``superlink`` is the connection of a deployment, ``ray_address`` a Ray cluster that is there already;
    ``settings`` are what a resumed deployment changes of the run's own config.
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

    def run_config(self) -> dict[str, bool | float | int | str]:
        """The run config that Flower hands to the ServerApp and to the sites."""
        return {"config": str(self.config), "out": str(self.out), "resume": self.resume}


class Engine(ABC):
    """Executes a run from its first round to its last."""

    shows_progress: ClassVar[bool] = False
    """Whether the ServerApp's own progress reaches the terminal; otherwise the command follows the metrics file."""

    @abstractmethod
    def run(self, job: Job) -> None:
        """Execute ``job`` and return when it has completed.

        Raises:
            FedReconError: the run failed; the message is one line. A ``RunError`` unless the ServerApp named a fault of
                the config or the data itself.
        """
