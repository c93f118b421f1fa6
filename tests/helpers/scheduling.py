"""Distribution of tests over the workers of pytest-xdist (``pytest -n 3``)."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/deployment/", "tests/simulation/")
"""Folders whose tests run one after the other: they start clusters on fixed ports, or fill the machine."""
LONGEST_FIRST = (*TOGETHER, "tests/integration/", "tests/looks/", "tests/golden/", "tests/contract/")


class FileScheduling(LoadFileScheduling):
    """Give each worker one file at a time, in the order of collection; a folder of ``TOGETHER`` counts as one file."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), super()._split_scope(nodeid))


def rank(item: pytest.Item) -> int:
    """Place of a test in the order of collection of a worker: what takes longest first, so that no worker waits."""
    folders = (place for place, folder in enumerate(LONGEST_FIRST) if item.nodeid.startswith(folder))
    return next(folders, len(LONGEST_FIRST))
