"""Every registered tracker against its contract; a new file needs no edit here."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedrecon_core.registry import discover
from server.trackers.base import TRACKER_PACKAGES, TRACKERS, TrackerParams
from tests.contract import tracker_checks
from tests.helpers import tracked

discover(TRACKER_PACKAGES)

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    pytest.param(name, check, id=f"{name}-{check.__name__.removeprefix('check_')}")
    for name in TRACKERS.names()
    for check in tracker_checks.CHECKS
]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """The defaults are those of a user who has set nothing."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("name", "check"), CASES)
def test_tracker(name, check, tmp_path):
    tracked.require(name)
    check(name, tmp_path)


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_tracker_names_its_keys_and_how_to_get_its_package(name):
    cls = TRACKERS.get(name)
    assert issubclass(cls.Params, TrackerParams)
    cls.Params()  # no key is required: `tracking.<name>: true` is enough
    assert cls.package is None or cls.pip


def test_no_package_of_a_tracker_is_loaded_before_a_run_starts():
    packages = {cls.package for _, cls in TRACKERS.items()} - {None}
    program = (
        "import sys, server.cli, server.app, client.app; from fedrecon_core.registry import discover;"
        f"discover({TRACKER_PACKAGES!r}); print(sorted({packages!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_site_knows_of_no_tracker():
    program = "import sys, client.app; print([name for name in sys.modules if name.startswith('server')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
