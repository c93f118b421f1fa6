"""One federation for all tests of this folder: a SuperLink and three SuperNodes over the same site folders."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import create_run
from tests.deployment.federation import Federation
from tests.helpers import runs

SITES = ("site-0000", "site-0001", "site-0002")
STRANGERS = ("stranger", "other")
"""Names that have keys, and do not belong to the federation."""
PROFILE = [
    {"sites": 1, "modalities": ["m0", "m1"]},
    {"sites": 1, "modalities": ["m1", "m2"]},
    {"sites": 1, "modalities": ["m0", "m1", "m2"]},
]
CONFIG = {
    "name": "polydigits",
    "rounds": 3,
    "data": {"name": "polydigits", "modalities": 3, "tuples": 1},
    "sites": {"count": 3, "timeout": 600, "wait": 600},  # a dead node is reported by the SuperLink, after a minute
    "missing": {
        "train": {"level": "profile", "profile": PROFILE},
        "validation": {"level": "sample", "rate": 0.5},
        "test": {"level": "sample", "rate": 0.5},
    },
    "recovery": {"name": "fedrecon", "warmup_rounds": 1},
    "evaluate": {"every": 3},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three site folders and ``federation.yaml``."""
    return runs.split_sites(runs.write(tmp_path_factory.mktemp("sites"), CONFIG))


@pytest.fixture(scope="session")
def expected(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The parameters that the in-process engine reaches over the same sites."""
    run = create_run(folders / "federation.yaml", out=tmp_path_factory.mktemp("inprocess") / "run")
    InProcess().run(Job.of(run))
    sha256: str = runs.result(run.directory.path)["parameters_sha256"]
    return sha256


@pytest.fixture(scope="session")
def federation(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The SuperLink and the SuperNodes, one of them with a fork server. A test leaves all running, and no run."""
    strangers = dict.fromkeys(STRANGERS, folders)
    sites = {name: folders / name for name in SITES} | strangers
    found = Federation(tmp_path_factory.mktemp("net"), sites, forked=frozenset(["site-0002"]))
    try:
        found.start_superlink()
        for name in SITES:
            found.register(name)
            found.start_site(name)
        yield found
    finally:
        found.close()
