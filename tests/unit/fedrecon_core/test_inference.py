"""A model folder needs the core alone: no run, no strategies, no Flower."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fedrecon_core.data.statistics import Statistics
from fedrecon_core.errors import DataError
from fedrecon_core.inference import DESCRIPTION, TrainedModel, load_model, save_model
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import read_group
from tests.helpers.toy import save_toy_model, toy_recovery


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_toy_model(tmp_path / "model")


def test_it_contains_nothing_of_the_run(folder):
    described = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
    assert set(described["config"]) == {"name", "seed", "recovery", "modalities", "task", "local", "evaluate"}


def test_a_loaded_model_can_be_saved_again_to_the_byte(folder, tmp_path):
    model = load_model(folder)
    state = {name: read_group(module) for name, module in model.groups.items()}
    save_model(tmp_path / "again", state, model.recovery, model.global_info)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_saved_model_has_reached_the_disk(tmp_path, monkeypatch):
    """A power cut right after a run was declared complete must find the model."""
    flushed: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    folder = save_toy_model(tmp_path / "model")
    for path in (*folder.iterdir(), folder, tmp_path):
        assert path.stat().st_ino in flushed, path


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="contains no trained model"):
        load_model(tmp_path)


def test_a_model_predicts_from_plain_arrays_and_recovers_what_is_left_out(tmp_path: Path) -> None:
    recovery = toy_recovery("mask")
    groups = recovery.build()
    global_info = GlobalInfo(3, dict.fromkeys(groups, 5))
    save_model(tmp_path / "model", {name: read_group(module) for name, module in groups.items()}, recovery, global_info)
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


# --- arrays that predict reads --------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> TrainedModel:
    return load_model(save_toy_model(tmp_path / "model"))


def pictures(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 6, 6), dtype=np.float32)


@pytest.mark.parametrize("kind", [np.float64, ">f4", np.longdouble])
def test_floating_numbers_of_another_width_are_read_as_float32(model, kind):
    expected = model.predict({"picture": pictures()})
    assert expected.dtype == torch.float32
    assert torch.equal(model.predict({"picture": pictures().astype(kind)}), expected)


def test_float16_is_read_as_the_same_numbers_in_float32(model):
    narrow = pictures().astype(np.float16)
    assert torch.equal(model.predict({"picture": narrow}), model.predict({"picture": narrow.astype(np.float32)}))


@pytest.mark.parametrize("name", ["picture", "features"])
@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.bool_, np.complex64, object])
def test_what_is_no_floating_number_is_refused_in_words(model, name, kind):
    values = np.ones((4, *model.recovery.spec[name].shape), dtype=kind)
    with pytest.raises(DataError) as caught:
        model.predict({name: values})
    message = f"{name}: expected floating-point numbers (float32), found {values.dtype}"
    assert str(caught.value) == message + ("; divide the bytes of an image by 255 first" if name == "picture" else "")


@pytest.mark.parametrize("values", [[[0.5] * 5], torch.zeros(1, 5), 0.5])
def test_what_is_no_array_is_refused_in_words(model, values):
    with pytest.raises(DataError, match=f"features: expected a NumPy array of float32, found {type(values).__name__}"):
        model.predict({"features": values})


def test_a_single_number_has_no_shape_of_samples(model):
    with pytest.raises(DataError, match=r"features: expected an array of shape \(N, 5\), found \(\)"):
        model.predict({"features": np.array(0.5)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("name", ["picture", "features", "steps"])
def test_nan_and_infinity_are_refused_with_the_sample_they_are_in(model, name, bad):
    values = np.full((4, *model.recovery.spec[name].shape), 0.5)
    values[2].flat[0] = bad  # float32 holds no 1e300
    with pytest.raises(DataError, match=f"^{name}: expected finite numbers, found NaN or infinity in sample 2; "):
        model.predict({name: values})


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (-0.002, 0.5), (0.5, 1.002)])
def test_pixels_outside_the_range_of_training_are_refused(model, low, high):
    values = pictures()
    values[1, 0, 0, :2] = low, high
    found = f"{min(low, values.min()):.6g} to {max(high, values.max()):.6g}"
    with pytest.raises(DataError) as caught:
        model.predict({"picture": values})
    assert str(caught.value).startswith(f"picture: expected pixels in [0, 1], found {found}; scale them like")


def test_pixels_may_overshoot_by_rounding_and_other_kinds_have_no_range(model):
    values = pictures()
    values[0, 0, 0, :2] = -1e-6, 1 + 1e-6
    assert torch.isfinite(model.predict({"picture": values})).all()
    assert torch.isfinite(model.predict({"features": np.full((2, 5), 255.0)})).all()


def test_images_that_the_federation_standardises_have_no_range(model):
    spec = model.recovery.spec
    scaled = spec["picture"].model_copy(update={"scale": "standard"})
    free = spec.model_copy(update={"modalities": (scaled, *spec.modalities[1:])})
    recovery = recovery_for(model.recovery.config, free)
    one = Statistics(torch.full((1, 6, 6), 128.0, dtype=torch.float64), torch.full((1, 6, 6), 64.0).double())
    known = replace(model.global_info, statistics={**model.global_info.statistics, "picture": one})
    found = TrainedModel(recovery, recovery.build(), known).predict({"picture": 255 * pictures()})
    assert torch.allclose(found.sum(dim=1), torch.ones(4))


def test_no_sample_at_all_has_no_values_to_refuse(model):
    with pytest.raises(DataError, match="the same number of samples in each"):
        model.predict({"picture": pictures(0), "features": np.zeros((1, 5))})
