"""Which packages each command imports: one that computes no model starts without PyTorch, Flower or Ray."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKED = Path(__file__).resolve().parents[4] / "docs" / "results" / "uci_har_samples"
SLOW = "torch", "flwr", "flwr_datasets", "ray", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2"
CALL = """
import contextlib, io, json, sys
from server.cli import main
sys.argv = ["fedrecon", *sys.argv[1:]]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
ALLOWED = {
    "--help": set(),
    "run --help": set(),
    "data list": set(),
    "certificates --out keys --host localhost": set(),
    "table PACKED": {"pandas", "pyarrow"},
    "report PACKED": {"pandas", "pyarrow", "jinja2"},
    "unpack PACKED again": {"pandas", "pyarrow"},
}


@pytest.mark.parametrize("command", ALLOWED)
def test_a_command_imports_no_slow_package_that_it_does_not_need(command, tmp_path):
    shutil.copytree(PACKED, tmp_path / "PACKED")
    call = [sys.executable, "-c", CALL, *command.split()]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & set(SLOW) <= ALLOWED[command]
