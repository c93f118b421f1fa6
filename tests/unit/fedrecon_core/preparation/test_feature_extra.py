"""What is said where a library of the extra [features] is absent, broken, or built for another torch."""

import sys

import pytest
import torch

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.feature_rows import rows_through
from fedrecon_core.preparation.features import base
from fedrecon_core.preparation.features.base import RawItem, require_library
from fedrecon_core.preparation.features.log_mel import LogMel, LogMelParams
from fedrecon_core.preparation.features.mfcc import Mfcc, MfccParams
from fedrecon_core.preparation.features.mobilebert import MobileBert, MobileBertParams
from fedrecon_core.preparation.features.mobilenet_v2 import MobileNetV2, MobileNetV2Params
from fedrecon_core.preparation.features.pixels import Pixels, PixelsParams
from tests.helpers.contents import contents_of

pytestmark = pytest.mark.quick

EXTRA = 'python -m pip install -c constraints.txt -e ".[features]"'


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a library ``toylib`` whose import runs a given source."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str, **modules: str) -> None:
        folder = tmp_path / "toylib"
        folder.mkdir()
        for name, text in {"__init__": source, **modules}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "toylib"]:
        del sys.modules[name]


def line(*given: str) -> str:
    with pytest.raises(DataError) as caught:
        require_library("toy", *given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def weights(tmp_path, *names: str) -> str:
    for name in names:
        (tmp_path / name).write_bytes(b"something")
    return str(tmp_path)


def test_a_library_is_imported_and_a_name_of_it_is_given():
    assert require_library("toy", "json") is sys.modules["json"]
    assert require_library("toy", "json.decoder", "JSONDecoder") is sys.modules["json"].JSONDecoder


def test_a_library_that_is_not_there_is_told_with_the_line_that_installs_it():
    expected = f"toy: expected the library no_such_library, found none; install the extra: {EXTRA}"
    assert line("no_such_library") == line("no_such_library.part", "Name") == expected


def test_each_feature_says_which_library_it_lacks(monkeypatch, tmp_path):
    (tmp_path / "mobilenet.pth").write_bytes(b"something")
    folder = weights(tmp_path, "config.json", "model.safetensors", "vocab.txt")
    cases = [
        ("librosa", LogMel(LogMelParams())),
        ("torchvision", MobileNetV2(MobileNetV2Params(weights=f"{folder}/mobilenet.pth"))),
        ("transformers", MobileBert(MobileBertParams(weights=folder))),
    ]
    for name, feature in cases:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(DataError) as caught:
            feature.extract(contents_of(feature.medium))
        assert f"{feature.params.name}: expected " in str(caught.value) and EXTRA in str(caught.value)
        assert f"the library {name}, found none" in str(caught.value)


def test_a_torchvision_of_another_torch_is_explained(library, monkeypatch):
    library('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert line("toylib") == (
        "toy: expected a torchvision built for the installed torch 2.13.0+cpu, found one of another build; "
        "install both from one index: python -m pip install --force-reinstall --no-deps -c constraints.txt "
        "torch torchvision "
        "--index-url https://download.pytorch.org/whl/cpu"
    )


def test_it_is_explained_where_transformers_hides_it_behind_an_import_error_of_its_own(library):
    lazy = """
def __getattr__(name):
    try:
        raise RuntimeError("operator torchvision::nms does not exist")
    except RuntimeError as error:
        raise ModuleNotFoundError(f"Could not import module '{name}'.") from error
"""
    library(lazy)
    assert line("toylib", "Model").startswith("toy: expected a torchvision built for the installed torch ")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import no_such_part", "ModuleNotFoundError: No module named 'no_such_part'"),
        ("raise OSError('sndfile library\\nnot found')", "OSError: sndfile library not found"),
        ("raise RuntimeError('cannot cache function')", "RuntimeError: cannot cache function"),
    ],
)
def test_a_broken_library_is_told_with_its_own_words(source, found, library):
    library(source)
    assert line("toylib") == f"toy: expected that toylib can be imported, found {found}; reinstall it: {EXTRA}"


def test_a_name_that_a_library_lacks_is_told(library):
    library("")
    assert "found AttributeError: module 'toylib' has no attribute 'Model'" in line("toylib", "Model")


def test_pixels_and_sound_of_the_same_content_are_told_apart():
    """A feature that is given another medium says what it expected."""
    with pytest.raises(DataError, match=r"^clip: expected a WAV file, found other bytes; "):
        LogMel(LogMelParams()).extract([RawItem(contents_of("image")[0].data, "clip")])


def test_a_library_or_weights_that_are_absent_are_told_before_any_content_is_read(monkeypatch, tmp_path):
    def opened(*_):
        pytest.fail("a content was read")

    monkeypatch.setattr(LogMel, "libraries", {"no_such_library": "no_such_library"})
    with pytest.raises(DataError) as caught:
        rows_through(LogMel(LogMelParams()), tmp_path, opened)
    assert str(caught.value).startswith("log_mel: expected the library no_such_library, found none; ")
    monkeypatch.setattr(MobileNetV2, "libraries", {})
    absent = str(tmp_path / "absent.pth")
    with pytest.raises(DataError, match=r"^mobilenet_v2: expected its weights in .*absent\.pth, found no file; "):
        rows_through(MobileNetV2(MobileNetV2Params(weights=absent)), tmp_path, opened)


def test_another_version_of_a_library_is_another_feature_and_none_is_imported(monkeypatch, tmp_path):
    features = [
        LogMel(LogMelParams()),
        Mfcc(MfccParams()),
        Pixels(PixelsParams()),
        MobileNetV2(MobileNetV2Params(weights=weights(tmp_path, "w.pth") + "/w.pth")),
        MobileBert(MobileBertParams(weights=weights(tmp_path, "config.json", "model.safetensors", "vocab.txt"))),
    ]
    monkeypatch.setattr("builtins.__import__", refusing(__import__))
    for feature in features:
        for package in feature.libraries:
            with monkeypatch.context() as patch:
                patch.setattr(base, "version", lambda name: "1.0")
                known = feature.fingerprint()
                patch.setattr(base, "version", lambda name, other=package: "1.1" if name == other else "1.0")
                assert feature.fingerprint() != known, (feature, package)
    assert [list(feature.libraries) for feature in features] == [
        ["librosa"],
        ["librosa"],
        ["pillow"],
        ["torchvision", "pillow"],
        ["transformers"],
    ]


def refusing(real):
    heavy = {"librosa", "torchvision", "transformers", "PIL"}

    def imported(name, *given, **keys):
        assert name.partition(".")[0] not in heavy, name
        return real(name, *given, **keys)

    return imported


def test_a_library_that_is_not_installed_has_no_version_in_the_fingerprint(monkeypatch):
    monkeypatch.setattr(LogMel, "libraries", {"no-such-package": "none"})
    assert LogMel(LogMelParams()).fingerprint().endswith(" no-such-package none")
