"""Fixtures and marks for every test."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

from fedrecon_core.registry import CORE_PACKAGES, discover
from tests.helpers.chromium import NAMES, Chromium, found

# A process that a shell starts in the background ignores Ctrl-C, and so would every command started by a test.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # results equal bit for bit only with one thread, and small models are faster

BENCHMARKS = Path(__file__).parent / "benchmarks"
TOGETHER = ("tests/deployment/", "tests/simulation/")
"""Folders whose tests run one after the other: they start clusters on fixed ports, or need the whole machine."""
LONGEST_FIRST = (*TOGETHER, "tests/integration/", "tests/looks/", "tests/golden/", "tests/contract/")


class FileScheduling(LoadFileScheduling):
    """Give each worker one file at a time, in the order of collection; a folder of ``TOGETHER`` counts as one file."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))


def rank(item: pytest.Item) -> int:
    """Position of a test in the order of a worker: the longest first, so that no worker idles at the end."""
    folders = (place for place, folder in enumerate(LONGEST_FIRST) if item.nodeid.startswith(folder))
    return next(folders, len(LONGEST_FIRST))


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
    """Distribute whole files over the workers (``pytest -n 3``)."""
    return FileScheduling(config, log)


@pytest.fixture(scope="session")
def discovered() -> None:
    """Fill every registry, as a run does."""
    discover((*CORE_PACKAGES, "strategies"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A Chromium shared by all tests of pages."""
    if found() is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH")
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
