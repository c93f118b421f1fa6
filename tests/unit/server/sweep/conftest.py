"""A small sweep on disk, shared by the tests of sweeps."""

import pytest

from server.report.run import write_report
from server.sweep.spec import read_definition
from server.sweep.store import SweepDirectory
from server.sweep.trials import build_trials
from tests.helpers.sweeps import write_sweep
from tests.helpers.toy import toy_settings


@pytest.fixture
def sweep(tmp_path):
    """(definition, its four trials, its directory)."""
    path = write_sweep(tmp_path, toy_settings("mask"), table={"rows": ["recovery"], "metrics": ["uar"]})
    definition = read_definition(path)
    directory = SweepDirectory(tmp_path / "out", write_report=write_report)
    return definition, build_trials(definition, tmp_path), directory
