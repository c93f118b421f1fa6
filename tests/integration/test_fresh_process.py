"""What only a process of its own shows: which libraries it loads, and what the shell sees."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch

from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.inference import load_model
from tests.helpers.federation import everything, save_toy_model, tiny_dataset, toy_site
from tests.helpers.folders import content

ROOT = Path(__file__).resolve().parents[2]
PREDICT = """
import torch; torch.set_num_threads(1)
import pickle, sys
from pathlib import Path
from fedrecon_core.inference import load_model

model, data, out = (Path(word) for word in sys.argv[1:])
logits = load_model(model).logits(pickle.loads(data.read_bytes()))
out.write_bytes(pickle.dumps(logits))
assert not {"strategies", "server", "client", "flwr", "tests"} & set(sys.modules), "more than the core is loaded"
"""


def run(program: str, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_model_predicts_with_the_core_alone(tmp_path):
    model, data, out = save_toy_model(tmp_path / "model"), tmp_path / "data", tmp_path / "logits"
    present = everything(48)
    present[::2, 0] = present[::3, 1] = False
    site = toy_site(tiny_dataset(), present)
    data.write_bytes(pickle.dumps(site))
    done = run(PREDICT, model, data, out)
    assert done.returncode == 0, done.stderr
    assert torch.equal(pickle.loads(out.read_bytes()), load_model(model).logits(site))


def test_a_site_folder_opens_without_a_parquet_reader(tmp_path):
    write_folder(tmp_path / "north", content(tiny_dataset(12, 8)))
    done = run(
        "import sys; from pathlib import Path; from fedrecon_core.data.site_folder.opening import open_folder;"
        "open_folder(Path(sys.argv[1])); assert not {'pyarrow', 'pandas'} & set(sys.modules)",
        tmp_path / "north",
    )
    assert done.returncode == 0, done.stderr


def test_the_partitioners_are_not_imported_before_they_are_used():
    done = run(
        "import sys; from fedrecon_core.registry import CORE_PACKAGES, discover; discover(CORE_PACKAGES);"
        "assert not {'flwr_datasets', 'datasets', 'sklearn'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_the_installed_command_says_one_line_and_its_code(tmp_path):
    done = run("from server.cli import main; main()", "run", "missing.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "fedrecon: config file missing.yaml does not exist; give the path of a YAML file\n"
