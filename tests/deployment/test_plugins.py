"""A plugin package on real SuperNodes: every site must have it installed, and one that lacks it reports that."""

import os

import pytest
import yaml

from tests.deployment.conftest import SITES
from tests.deployment.federation import Federation, output_of
from tests.helpers import plugin, runs

pytestmark = [pytest.mark.deployment, pytest.mark.slow]


def test_sites_with_the_plugin_train_and_one_without_it_says_so(folders, tmp_path):
    installed = plugin.install(plugin.write_package(tmp_path / "source"), tmp_path / "installed")
    with_plugin = ["env", f"PYTHONPATH={installed}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"]
    raw = yaml.safe_load((folders / "federation.yaml").read_text())
    raw |= {"rounds": 1, "recovery": {"name": "ramp"}, "plugins": [plugin.NAME]}
    raw["evaluate"] |= {"every": 1, "select": "worst_recall"}
    raw["sites"] |= {"min": 2}
    raw["data"]["root"] = str(folders)
    config = runs.write(tmp_path, raw)
    places = dict.fromkeys(("superlink", *SITES[:2]), with_plugin)
    federation = Federation(tmp_path / "net", {name: folders / name for name in SITES}, places=places)
    try:
        federation.start()
        output = output_of(federation.run(str(config), "--out", str(tmp_path / "run")))
        missing = f"plugins: {plugin.NAME} is not installed at this site; install a package with an entry point"
        [line] = [line for line in output.splitlines() if missing in line]
        assert SITES[2] in line or "node" in line
        result = runs.result(tmp_path / "run")
        assert result["status"] == "completed"
        assert 0 <= result["test"]["worst_recall"] <= result["test"]["uar"]
        assert {line["site"] for line in runs.lines(tmp_path / "run", "sites.jsonl")} == set(SITES[:2])
    finally:
        federation.close()
