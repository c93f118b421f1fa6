"""Atomic writes, also by several processes at once."""

import pytest

from fedrecon_core.files import is_leftover, remove_leftovers, replace_file, replace_text

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
