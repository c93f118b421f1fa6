"""Fixtures and marks for every test."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers.chromium import NAMES, Chromium, found
from tests.helpers.scheduling import FileScheduling, rank

# What a shell starts in the background ignores Ctrl-C, and so would every command that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # results equal bit for bit only with one thread, and small models are faster

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark all tests in tests/benchmarks, so that plain ``pytest`` never runs a benchmark that lacks its mark."""
    for item in items:
        if BENCHMARKS in item.path.parents:
            item.add_marker("benchmark")
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist
        items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FileScheduling:
    """Distribute whole files, see ``tests/helpers/scheduling.py``."""
    return FileScheduling(config, log)


@pytest.fixture(scope="session")
def discovered() -> None:
    """Every registry filled, as a run fills it."""
    discover((*CORE_PACKAGES, "strategies"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One Chromium for all tests of pages."""
    if found() is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH")
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
