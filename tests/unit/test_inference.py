"""A model folder needs the core alone: no run, no strategies, no Flower."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fedrecon_core.errors import DataError
from fedrecon_core.inference import DESCRIPTION, load_model, save_model
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import read_group
from tests.toys.federation import everything, tiny_dataset, toy_recovery, toy_site

pytestmark = pytest.mark.quick

PROGRAM = """
import pickle, sys
from pathlib import Path
from fedrecon_core.inference import load_model

model, data, out = (Path(word) for word in sys.argv[1:])
logits = load_model(model).logits(pickle.loads(data.read_bytes()))
out.write_bytes(pickle.dumps(logits))
assert not {"strategies", "server", "client", "flwr", "tests"} & set(sys.modules), "more than the core is loaded"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model of FedRecon whose generators and mappings count as trained, so that it fills what is absent."""
    recovery = toy_recovery(strategy={"name": "fedopt", "momentum": 0.3}, data={"name": "toy", "train": 24})
    model = {name: read_group(module) for name, module in recovery.build().items()}
    save_model(tmp_path / "model", model, recovery, Knowledge(3, dict.fromkeys(model, 10), {}, {}))
    return tmp_path / "model"


def site():
    present = everything(48)
    present[::2, 0] = present[::3, 1] = False
    return toy_site(tiny_dataset(), present)


def test_a_fresh_process_loads_it_and_predicts_with_the_core_alone(folder, tmp_path):
    data, out = tmp_path / "data", tmp_path / "logits"
    data.write_bytes(pickle.dumps(site()))
    program = f"import torch; torch.set_num_threads(1)\n{PROGRAM}"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program, folder, data, out], check=True, cwd=root)
    assert torch.equal(pickle.loads(out.read_bytes()), load_model(folder).logits(site()))


def test_it_tells_nothing_of_the_run(folder):
    described = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
    assert set(described["config"]) == {"name", "seed", "recovery", "modalities", "task", "local", "evaluate"}


def test_a_loaded_model_can_be_saved_again_to_the_byte(folder, tmp_path):
    model = load_model(folder)
    state = {name: read_group(module) for name, module in model.groups.items()}
    save_model(tmp_path / "again", state, model.recovery, model.knowledge)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no trained model"):
        load_model(tmp_path)


def test_a_model_predicts_from_plain_arrays_and_recovers_what_is_left_out(tmp_path: Path) -> None:
    recovery = toy_recovery("mask")
    groups = recovery.build()
    knowledge = Knowledge(3, dict.fromkeys(groups, 5))
    save_model(tmp_path / "model", {name: read_group(module) for name, module in groups.items()}, recovery, knowledge)
    model = load_model(tmp_path)  # the run directory will do
    features = np.zeros((4, 5), dtype=np.float32)
    found = model.predict({"features": features})
    assert found.shape == (4, 3) and torch.allclose(found.sum(dim=1), torch.ones(4))
    with pytest.raises(DataError, match="unknown modality 'smell'; known: picture, features, steps"):
        model.predict({"smell": features})
    with pytest.raises(DataError, match="features: expected an array of shape"):
        model.predict({"features": features[:, :4]})
    with pytest.raises(DataError, match=r"found \{\}"):
        model.predict({})
