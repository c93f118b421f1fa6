"""The cache of features: by content and feature, never half a file; weights are hashed once."""

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedrecon_core import files
from fedrecon_core.config import Params
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import Feature, RawItem, sha256_of
from fedrecon_core.preparation.features.cache import CachedFeature, default_cache
from fedrecon_core.types import ModalitySpec

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


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
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
