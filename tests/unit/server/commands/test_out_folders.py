"""Folders that are asked for where something else is: one line, and what is there stays."""

import numpy as np
import pytest

from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.errors import DataError
from fedrecon_core.preparation.simulated_sites import write_sites
from tests.helpers.toy import toy_config, toy_spec

pytestmark = pytest.mark.quick


def content() -> FolderContent:
    none = np.zeros(0, dtype=np.int64)
    return FolderContent(toy_spec(), Samples(none, none, none, none, np.zeros((0, 3), dtype=np.bool_)), {}, {})


WRITERS = {
    "write_folder": lambda out: write_folder(out, content()),
    "write_sites": lambda out: list(write_sites(toy_config("mask"), out)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path, name):
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(DataError, match=r"out: expected a new or empty folder, found a file; choose another one"):
        WRITERS[name](out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_with_something_in_it_is_left_alone(tmp_path, name):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(DataError, match="expected a new or empty folder, found files in it; choose another one"):
        WRITERS[name](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
