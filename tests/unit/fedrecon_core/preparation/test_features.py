"""Features: the cache of their arrays, and the libraries and weights that they need."""

import hashlib
import os
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fedrecon_core import files
from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.feature_rows import rows_through
from fedrecon_core.preparation.features import base
from fedrecon_core.preparation.features.base import Feature, RawItem, require_library, sha256_of
from fedrecon_core.preparation.features.cache import CachedFeature, default_cache
from fedrecon_core.preparation.features.log_mel import LogMel, LogMelParams
from fedrecon_core.preparation.features.mfcc import Mfcc, MfccParams
from fedrecon_core.preparation.features.mobilebert import MobileBert, MobileBertParams
from fedrecon_core.preparation.features.mobilenet_v2 import MobileNetV2, MobileNetV2Params
from fedrecon_core.preparation.features.pixels import Pixels, PixelsParams
from fedrecon_core.types import ModalitySpec
from tests.helpers.features import contents_of

pytestmark = pytest.mark.quick


class CountParams(Params):
    name: str = "count"
    scale: float = 1.0


class Count(Feature):
    """The bytes of a text, scaled; keeps what it was asked for."""

    Params = CountParams
    medium = "text"
    ragged = True
    costly = True

    def __init__(self, params):
        super().__init__(params)
        self.asked: list[list[str]] = []

    def modality(self, name):
        return ModalitySpec(name=name, kind="sequence", shape=(9, 1))

    def extract(self, contents):
        self.asked.append([content.origin for content in contents])
        return [np.frombuffer(content.data, np.uint8)[:, None] * self.params.scale for content in contents]


@dataclass
class Cached:
    """A cache in a folder with a feature of its own, as another process would have them."""

    folder: object
    keys: dict = field(default_factory=dict)

    def __post_init__(self):
        self.feature = Count(CountParams(**self.keys))

    def extract(self, **texts: str):
        given = [RawItem(text.encode(), origin) for origin, text in texts.items()]
        return CachedFeature(self.feature, self.folder).extract(given)


def test_what_was_read_once_is_never_read_again(tmp_path):
    first, second = Cached(tmp_path), Cached(tmp_path)
    made, kept = first.extract(a="one", b="three"), second.extract(b="three", a="one")
    assert (first.feature.asked, second.feature.asked) == ([["a", "b"]], [])
    for array, again in zip(made, reversed(kept), strict=True):
        assert array.dtype == again.dtype == np.float32 and array.tobytes() == again.tobytes()


def test_only_what_is_new_is_read_in_one_batch_and_everything_comes_in_order(tmp_path):
    Cached(tmp_path).extract(b="two")
    cached = Cached(tmp_path)
    arrays = cached.extract(a="one", b="two", c="three")
    assert cached.feature.asked == [["a", "c"]]
    assert [array.ravel().astype(np.uint8).tobytes().decode() for array in arrays] == ["one", "two", "three"]


def test_the_content_counts_and_not_its_name(tmp_path):
    cached = Cached(tmp_path)
    left, right = cached.extract(a="one", b="one")
    cached.extract(another="one")
    assert len(cached.feature.asked) == 1 and len(cached.feature.asked[0]) == 1
    assert left.tobytes() == right.tobytes()
    (changed,) = cached.extract(a="two")
    assert len(cached.feature.asked) == 2 and changed.tobytes() != left.tobytes()


def test_other_keys_and_another_version_are_other_features(tmp_path, monkeypatch):
    Cached(tmp_path).extract(a="one")
    scaled = Cached(tmp_path, {"scale": 2.0})
    (array,) = scaled.extract(a="one")
    assert scaled.feature.asked == [["a"]] and array[0, 0] == 2 * ord("o")
    monkeypatch.setattr(Count, "version", 2)
    renewed = Cached(tmp_path)
    renewed.extract(a="one")
    assert renewed.feature.asked == [["a"]]


def another_number(data: bytes) -> bytes:
    return data[:-2] + bytes([data[-2] ^ 1, data[-1]])


def another_length(data: bytes) -> bytes:
    return data.replace(b"(3, 1)", b"(1, 3)")


def archive(_: bytes) -> bytes:
    return b"PK\x03\x04 of something else"


def header(data: bytes) -> bytes:
    return data.replace(b"{'descr'", b"('descr' ")


DAMAGES = {
    "cut": lambda data: data[:-2],
    "its head": lambda data: data[:100],
    "empty": lambda _: b"",
    "something else": lambda _: b"something else",
    "no digest": lambda data: data.partition(b"\n")[2],
    "an archive": archive,
    "another header": header,
    "another length": another_length,
    "another number": another_number,
    "more at its end": lambda data: data + b"\0",
}


def entries(folder) -> list:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_never_taken_but_made_anew(damage, tmp_path):
    (made,) = Cached(tmp_path).extract(a="one")
    (file,) = entries(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(DAMAGES[damage](whole))
    assert file.read_bytes() != whole
    cached = Cached(tmp_path)
    (array,) = cached.extract(a="one")
    assert cached.feature.asked == [["a"]] and array.tobytes() == made.tobytes()
    assert file.read_bytes() == whole
    again = Cached(tmp_path)
    again.extract(a="one")
    assert again.feature.asked == []


def test_an_entry_under_another_name_is_not_taken(tmp_path):
    Cached(tmp_path).extract(a="one")
    (one,) = entries(tmp_path)
    Cached(tmp_path).extract(b="two")
    (two,) = set(entries(tmp_path)) - {one}
    two.write_bytes(one.read_bytes())
    cached = Cached(tmp_path)
    (array,) = cached.extract(b="two")
    assert cached.feature.asked == [["b"]] and array[0, 0] == ord("t")


def test_only_the_owner_may_read_entries_and_folders(tmp_path):
    before = os.umask(0)
    try:
        Cached(tmp_path / "cache").extract(a="one")
        (file,) = entries(tmp_path)
        file.write_bytes(b"damaged")
        file.chmod(0o644)
        Cached(tmp_path / "cache").extract(a="one")
    finally:
        os.umask(before)
    made = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in made if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}


def test_what_costs_nothing_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Count, "costly", False)
    cached = Cached(tmp_path / "cache")
    cached.extract(a="one")
    cached.extract(a="one")
    assert cached.feature.asked == [["a"], ["a"]] and not (tmp_path / "cache").exists()


def test_an_interruption_while_writing_leaves_nothing_that_is_taken(tmp_path, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "sync", interrupted)
        Cached(tmp_path).extract(a="one")
    assert entries(tmp_path) == []
    cached = Cached(tmp_path)
    cached.extract(a="one")
    assert cached.feature.asked == [["a"]]


def test_what_was_read_before_a_fault_is_kept(tmp_path):
    Cached(tmp_path).extract(a="one")
    cached = Cached(tmp_path)
    cached.feature.extract = lambda contents: (_ for _ in ()).throw(DataError("b: expected a text"))
    with pytest.raises(DataError, match=r"^b: "):
        cached.extract(a="one", b="two")
    (array,) = cached.extract(a="one")
    assert len(array) == 3


def test_an_unwritable_folder_is_reported_in_one_line(tmp_path):
    (tmp_path / "count").write_text("a file where a folder should be")
    with pytest.raises(DataError) as caught:
        Cached(tmp_path).extract(a="one")
    assert str(caught.value).startswith(str(tmp_path / "count"))
    assert str(caught.value).endswith(
        ": the feature cache cannot be written: File exists; fix that, or set XDG_CACHE_HOME to another folder"
    )


def test_the_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "fedrecon" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "fedrecon" / "features"


def test_weights_are_hashed_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    file, calls = tmp_path / "weights", []
    file.write_bytes(b"first")
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: calls.append(given) or digest(*given))
    assert sha256_of(file) == sha256_of(file) == hashlib.sha256(b"first").hexdigest()
    assert len(calls) == 1
    file.write_bytes(b"second")
    assert sha256_of(file) == hashlib.sha256(b"second").hexdigest()


# --- messages where a library of the extra [features] is missing, broken, or built for another torch ----------------


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


def test_a_missing_library_is_reported_with_the_command_that_installs_it():
    expected = f"toy: expected the library no_such_library, found none; install the extra: {EXTRA}"
    assert line("no_such_library") == line("no_such_library.part", "Name") == expected


def test_each_feature_names_the_library_that_is_missing(monkeypatch, tmp_path):
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


def test_a_name_missing_in_a_library_is_reported(library):
    library("")
    assert "found AttributeError: module 'toylib' has no attribute 'Model'" in line("toylib", "Model")


def test_pixels_and_sound_of_the_same_content_have_different_entries():
    """A feature that gets another medium names the one that it expects."""
    with pytest.raises(DataError, match=r"^clip: expected a WAV file, found other bytes; "):
        LogMel(LogMelParams()).extract([RawItem(contents_of("image")[0].data, "clip")])


def test_missing_libraries_or_weights_are_reported_before_any_content_is_read(monkeypatch, tmp_path):
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
