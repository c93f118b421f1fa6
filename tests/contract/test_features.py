"""What every registered feature promises; a new file in ``preparation/features`` is tested with no edit.

It is given the contents of its medium (``tests/helpers/features.py``). A feature that has keys without a default, or
reads files of its own, finds a toy of them: ``tests/helpers/feature_<name>.py`` has ``keys(base)``, which writes them
below ``base`` and returns the keys.
"""

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedrecon_core import config
from fedrecon_core.preparation.features.base import Feature, FloatArray, RawItem
from fedrecon_core.preparation.features.cache import CachedFeature
from fedrecon_core.registry import CORE_PACKAGES, DATA_PACKAGES, FEATURES, MODALITIES, discover
from fedrecon_core.types import ModalitySpec
from tests.helpers.features import BY_MEDIUM, contents_of

discover((*CORE_PACKAGES, *DATA_PACKAGES))

HEAVY = ("librosa", "numba", "scipy", "sklearn", "soundfile", "torchvision", "transformers", "huggingface_hub", "PIL")


@dataclass(frozen=True)
class Case:
    """A feature's class, its keys for a test, and what it makes of the contents of its medium."""

    cls: Any
    keys: dict[str, Any]
    arrays: list[FloatArray]

    def build(self) -> Feature:
        feature: Feature = self.cls(self.cls.Params(**self.keys))
        return feature

    @property
    def contents(self) -> list[RawItem]:
        return contents_of(self.cls.medium)


def case_of(name: str, base: Path) -> Case:
    toy, cls = f"tests.helpers.feature_{name}", FEATURES.get(name)
    keys = importlib.import_module(toy).keys(base) if importlib.util.find_spec(toy) else {}
    empty = Case(cls, {"name": name, **keys}, [])
    return Case(cls, empty.keys, empty.build().extract(empty.contents))


def check_reads_a_known_medium_and_refuses_unknown_keys(case: Case) -> None:
    assert case.cls.medium in BY_MEDIUM
    with pytest.raises(ValidationError):
        case.cls.Params(**case.keys, no_such_key=1)


def check_a_config_chooses_it_by_its_name(case: Case) -> None:
    chosen = TypeAdapter(config.Feature).validate_python(case.keys)
    assert chosen == case.cls.Params(**case.keys)


def check_arrays_fit_the_modality(case: Case) -> None:
    feature = case.build()
    spec = feature.modality("toy_name")
    assert spec.name == "toy_name" and spec.kind in MODALITIES.names()
    assert len(case.arrays) == len(case.contents)
    for array in case.arrays:
        assert isinstance(array, np.ndarray) and array.dtype == np.float32 and np.isfinite(array).all()
        if feature.ragged:
            assert array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
            assert 1 <= len(array) <= spec.shape[0]
        else:
            assert array.shape == spec.shape


def check_lengths_follow_the_contents_where_it_is_ragged(case: Case) -> None:
    lengths = {len(array) for array in case.arrays}
    assert len(lengths) > 1 if case.build().ragged else len(lengths) == 1


def check_different_contents_have_different_arrays(case: Case) -> None:
    different = {content.data for content in case.contents}
    assert len({array.tobytes() for array in case.arrays}) == len(different)


def check_the_same_contents_give_the_same_bytes_again(case: Case) -> None:
    again = case.build().extract(case.contents)
    assert [array.tobytes() for array in again] == [array.tobytes() for array in case.arrays]


def check_neighbours_and_order_change_nothing_that_matters(case: Case) -> None:
    feature, size = case.build(), max(float(np.abs(array).max()) for array in case.arrays)
    for content, array in zip(reversed(case.contents), reversed(case.arrays), strict=True):
        np.testing.assert_allclose(feature.extract([content])[0], array, rtol=1e-5, atol=1e-6 * size)


def check_no_contents_give_no_arrays(case: Case) -> None:
    assert case.build().extract([]) == []


def check_the_origin_has_no_part_in_the_arrays(case: Case) -> None:
    content = case.contents[0]
    (renamed,) = case.build().extract([RawItem(content.data, "elsewhere")])
    np.testing.assert_array_equal(renamed, case.build().extract([content])[0])


def check_fingerprints_of_the_same_keys_are_equal(case: Case) -> None:
    assert case.build().fingerprint() == case.build().fingerprint()
    assert str(case.keys["name"]) in case.build().fingerprint()


def check_a_cache_gives_the_same_bytes_and_keeps_what_costs_work(case: Case, folder: Path) -> None:
    CachedFeature(case.build(), folder).extract(case.contents)
    again = case.build()
    if case.cls.costly:
        again.extract = lambda contents: pytest.fail("extracted again")  # type: ignore[method-assign]
    else:
        assert not folder.exists()
    kept = CachedFeature(again, folder).extract(case.contents)
    assert [array.tobytes() for array in kept] == [array.tobytes() for array in case.arrays]


def test_images_and_series_are_not_kept_a_second_time():
    assert {name for name, cls in FEATURES.items() if not cls.costly} >= {"pixels", "series"}


CHECKS = [check for name, check in globals().items() if name.startswith("check_") and "cache" not in name]


@pytest.fixture(scope="module", params=FEATURES.names())
def case(request, tmp_path_factory):
    return case_of(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_feature(case, check):
    check(case)


def test_cached_feature(case, tmp_path):
    check_a_cache_gives_the_same_bytes_and_keeps_what_costs_work(case, tmp_path / "cache")


FIND = f"""
import contextlib, sys
from fedrecon_core.registry import DATA_PACKAGES, FEATURES, discover
discover(DATA_PACKAGES)
for name, cls in FEATURES.items():
    with contextlib.suppress(ValueError):  # keys without a default
        cls(cls.Params(name=name)).modality("any")
print(*FEATURES.names(), *sorted(set({HEAVY}) & {{name.partition(".")[0] for name in sys.modules}}))
"""


def test_finding_and_describing_all_features_imports_no_library_of_theirs():
    done = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.split(), done.stderr) == (FEATURES.names(), "")


class Lengths(Feature):
    """A feature that keeps its promises: how many bytes a text has, once per word."""

    medium = "text"
    ragged = True

    def modality(self, name):
        return ModalitySpec(name=name, kind="sequence", shape=(9, 1))

    def extract(self, contents):
        return [np.full((1 + content.data.count(b" "), 1), len(content.data), np.float32) for content in contents]


lengths_of = Lengths.extract
BROKEN = {
    "arrays of another type": (
        check_arrays_fit_the_modality,
        lambda self, contents: [array.astype(np.float64) for array in lengths_of(self, contents)],
    ),
    "more steps than the modality has": (
        check_arrays_fit_the_modality,
        lambda self, contents: [np.repeat(array, 9, axis=0) for array in lengths_of(self, contents)],
    ),
    "not a number": (
        check_arrays_fit_the_modality,
        lambda self, contents: [array * np.float32("nan") for array in lengths_of(self, contents)],
    ),
    "depends on its neighbours": (
        check_neighbours_and_order_change_nothing_that_matters,
        lambda self, contents: [array * len(contents) for array in lengths_of(self, contents)],
    ),
    "depends on chance": (
        check_the_same_contents_give_the_same_bytes_again,
        lambda self, contents: [array + np.float32(np.random.rand()) for array in lengths_of(self, contents)],
    ),
    "reads the origin": (
        check_the_origin_has_no_part_in_the_arrays,
        lambda self, contents: [np.full((1, 1), len(content.origin), np.float32) for content in contents],
    ),
}


@pytest.fixture
def enter():
    """Registers a class as the feature ``lengths``, and forgets it afterwards."""
    yield FEATURES.register("lengths")
    FEATURES.forget("lengths")


def test_a_toy_feature_passes_every_check(enter, tmp_path):
    enter(Lengths)
    toy = case_of("lengths", tmp_path)
    for check in CHECKS:
        check(toy)
    check_a_cache_gives_the_same_bytes_and_keeps_what_costs_work(toy, tmp_path / "cache")


@pytest.mark.parametrize("fault", BROKEN)
def test_a_toy_feature_that_breaks_a_promise_is_caught(fault, enter, tmp_path):
    check, extract = BROKEN[fault]
    enter(type("Broken", (Lengths,), {"extract": extract}))
    toy = case_of("lengths", tmp_path)
    with pytest.raises(AssertionError):
        check(toy)
