"""A folder that takes another one's place: what an interruption at any moment leaves."""

import tarfile
from pathlib import Path

import pytest

from server.sweep.folder_swap import exchange, finish_exchanges
from server.sweep.packed import pack, unpack

pytestmark = pytest.mark.quick


class StoppedError(BaseException):
    """The process ends here: no handler of faults may see it."""


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "cell"
    (folder / "checkpoints" / "round-000001").mkdir(parents=True)
    (folder / "config.yaml").write_text("old")
    return folder


def new(folder):
    folder.mkdir()
    (folder / "config.yaml").write_text("new")
    (folder / "result.json").write_text("{}")


def content(folder):
    return sorted(path.name for path in folder.iterdir()), (folder / "config.yaml").read_text()


BEFORE = ["checkpoints", "config.yaml"], "old"
AFTER = ["config.yaml", "result.json"], "new"


def test_the_new_folder_stands_in_the_place_of_the_old_one_and_nothing_beside_it(old):
    exchange(old, new)
    assert content(old) == AFTER
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize(("renames", "left"), [(0, BEFORE), (1, AFTER), (2, AFTER)])
def test_an_interruption_leaves_the_old_folder_or_from_when_it_is_whole_the_new_one(old, monkeypatch, renames, left):
    rename, done = Path.rename, []

    def stopping(self, target):
        if len(done) == renames:
            raise StoppedError
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopping)
    monkeypatch.setattr("server.sweep.folder_swap.shutil.rmtree", lambda *_, **__: None)  # as if it had ended before
    if renames < 2:
        with pytest.raises(StoppedError):
            exchange(old, new)
    else:
        exchange(old, new)
    monkeypatch.undo()
    finish_exchanges(old.parent)
    assert content(old) == left
    assert list(old.parent.iterdir()) == [old]


def test_an_interrupt_between_the_two_renames_gives_the_new_folder_its_place_at_once(old, monkeypatch):
    rename, done = Path.rename, []

    def once(self, target):
        done.append(target)
        if len(done) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        exchange(old, new)
    assert content(old) == AFTER
    assert list(old.parent.iterdir()) == [old]


def test_a_disk_that_refuses_the_new_folder_its_place_gets_the_old_one_back(old, monkeypatch):
    rename = Path.rename

    def refusing(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="Input/output error"):
        exchange(old, new)
    assert content(old) == BEFORE
    assert list(old.parent.iterdir()) == [old]


def test_an_exchange_that_follows_an_interrupted_one_does_not_take_half_for_whole(old):
    """With the place free, another one must not be at work beside an old folder that stands aside."""
    old.rename(old.with_name(".cell.old"))

    def stopped(folder):
        folder.mkdir()
        raise StoppedError

    with pytest.raises(StoppedError):
        exchange(old, stopped)
    assert content(old) == BEFORE


def test_what_cannot_be_written_leaves_the_old_folder(old):
    def full(folder):
        new(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        exchange(old, full)
    assert content(old) == BEFORE
    assert list(old.parent.iterdir()) == [old]


def test_a_packed_run_arrives_as_it_was_and_a_damaged_one_leaves_the_old(old, tmp_path):
    source = tmp_path / "source"
    new(source)
    data = pack(source, ("result.json",))
    with pytest.raises(tarfile.TarError):
        exchange(old, lambda arrived: unpack(data[:100], arrived))
    assert content(old) == BEFORE
    exchange(old, lambda arrived: unpack(data, arrived))
    assert content(old) == (["config.yaml"], "new")
