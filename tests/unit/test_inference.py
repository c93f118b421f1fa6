"""A model folder needs the core alone: no run, no strategies, no Flower."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fedrecon_core.errors import DataError
from fedrecon_core.inference import DESCRIPTION, load_model, save_model
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import read_group
from tests.toys.federation import save_toy_model, toy_recovery

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_toy_model(tmp_path / "model")


def test_it_tells_nothing_of_the_run(folder):
    described = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
    assert set(described["config"]) == {"name", "seed", "recovery", "modalities", "task", "local", "evaluate"}


def test_a_loaded_model_can_be_saved_again_to_the_byte(folder, tmp_path):
    model = load_model(folder)
    state = {name: read_group(module) for name, module in model.groups.items()}
    save_model(tmp_path / "again", state, model.recovery, model.knowledge)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_model_is_on_the_disk_when_it_is_said_to_be_saved(tmp_path, monkeypatch):
    """A power cut right after a run was declared complete must find the model."""
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    folder = save_toy_model(tmp_path / "model")
    for path in (*folder.iterdir(), folder, tmp_path):
        assert path.stat().st_ino in flushed, path


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
