"""Atomic writes of files and folders, by several processes at once and interrupted at any moment; reading text."""

from pathlib import Path

import pytest

from fedrecon_core.errors import DataError
from fedrecon_core.files import (
    finish_folder_replacements,
    is_leftover,
    read_text,
    remove_leftovers,
    replace_file,
    replace_folder,
    replace_text,
)

pytestmark = pytest.mark.quick


def test_two_writers_of_one_file_each_write_it_whole(tmp_path):
    path = tmp_path / "a.txt"

    def slowly(partial):
        partial.write_text("sl")
        replace_text(path, "fast")  # a second writer comes in between
        assert path.read_text() == "fast"
        with partial.open("a") as file:
            file.write("ow")

    replace_file(path, slowly)
    assert path.read_text() == "slow"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_only_leftovers_of_a_crash_are_removed(tmp_path):
    seen = []
    replace_file(tmp_path / "a.txt", lambda partial: seen.append(partial) or partial.write_text("x"))
    seen[0].write_text("half")
    (tmp_path / ".a.txt").write_text("mine")
    assert is_leftover(seen[0]) and not is_leftover(tmp_path / "a.txt")
    remove_leftovers(tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".a.txt", "a.txt"]


def test_a_link_under_the_old_name_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("other")
    (tmp_path / ".a.txt.partial").symlink_to(tmp_path / "other")
    replace_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "other").read_text() == "other" and not (tmp_path / "a.txt").is_symlink()


# --- folders --------------------------------------------------------------------------------------------------------


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


def test_a_folder_is_replaced_and_nothing_is_left_next_to_it(old):
    replace_folder(old, new)
    assert content(old) == AFTER
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize(("renames", "left"), [(0, BEFORE), (1, AFTER), (2, AFTER)])
def test_an_interruption_leaves_the_old_folder_or_the_complete_new_one(old, monkeypatch, renames, left):
    rename, done = Path.rename, []

    def stopping(self, target):
        if len(done) == renames:
            raise StoppedError
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopping)
    monkeypatch.setattr("fedrecon_core.files.shutil.rmtree", lambda *_, **__: None)  # as if it had ended before
    if renames < 2:
        with pytest.raises(StoppedError):
            replace_folder(old, new)
    else:
        replace_folder(old, new)
    monkeypatch.undo()
    finish_folder_replacements(old.parent)
    assert content(old) == left
    assert list(old.parent.iterdir()) == [old]


def test_an_interrupt_between_the_two_renames_completes_the_replacement(old, monkeypatch):
    rename, done = Path.rename, []

    def once(self, target):
        done.append(target)
        if len(done) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(old, new)
    assert content(old) == AFTER
    assert list(old.parent.iterdir()) == [old]


def test_the_old_folder_comes_back_if_the_new_one_cannot_be_renamed(old, monkeypatch):
    rename = Path.rename

    def refusing(self, target):
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="Input/output error"):
        replace_folder(old, new)
    assert content(old) == BEFORE
    assert list(old.parent.iterdir()) == [old]


def test_a_replacement_after_an_interrupted_one_does_not_use_a_partial_folder(old):
    """The old folder must be back in place before a new one is written next to it."""
    old.rename(old.with_name(".cell.old"))

    def stopped(folder):
        folder.mkdir()
        raise StoppedError

    with pytest.raises(StoppedError):
        replace_folder(old, stopped)
    assert content(old) == BEFORE


def test_a_failed_write_leaves_the_old_folder(old):
    def full(folder):
        new(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_folder(old, full)
    assert content(old) == BEFORE
    assert list(old.parent.iterdir()) == [old]


def test_a_nul_in_a_path_is_not_blamed_on_the_encoding(tmp_path):
    with pytest.raises(DataError, match="expected the path of a text file, found a NUL character in it") as caught:
        read_text(tmp_path / "a\0b.txt")
    assert "encoding" not in str(caught.value)
    (tmp_path / "a.txt").write_text("a")
    for encoding in ("no-such-encoding", "utf\0-8", "undefined"):
        with pytest.raises(DataError, match="encoding: expected one that Python knows"):
            read_text(tmp_path / "a.txt", encoding)
