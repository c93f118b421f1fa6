"""A plugin package that pip installed, used by name on Ray: the processes of the sites import it as well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import plugin, runs

pytestmark = pytest.mark.simulation

ROOT = Path(__file__).resolve().parents[2]


def test_a_plugin_gives_the_same_run_on_ray_as_in_process(tmp_path):
    installed = plugin.install(plugin.write_package(tmp_path / "source"), tmp_path / "installed")
    raw = runs.settings(
        rounds=2,
        data={"name": "polydigits", "modalities": 2, "tuples": 1},
        recovery={"name": "ramp", "slope": 0.25},
        plugins=[plugin.NAME],
        evaluate={"select": "worst_recall"},
    )
    path, found = runs.write(tmp_path, raw), []
    for engine in ("inprocess", "ray"):
        out = tmp_path / engine
        command = [sys.executable, "-m", "server.cli", "run", str(path), "--engine", engine, "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        result, manifest = runs.result(out), json.loads((out / "manifest.json").read_text())
        found.append((result["parameters_sha256"], result["test"]["worst_recall"], manifest["code_sha256"]))
        assert manifest["versions"]["fedrecon-ramp"] == plugin.VERSION
    assert found[0] == found[1]
