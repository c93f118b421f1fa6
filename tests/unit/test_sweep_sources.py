"""The data of a sweep are seen before its first cell starts, and what lacks is told with the cells that need it."""

from pathlib import Path

import pytest

import fedrecon_core.data.dataset as dataset
from fedrecon_core.errors import DataError
from server.sweep.cells import matrix
from server.sweep.definition import read_definition
from server.sweep.faults import Faults
from server.sweep.sources import check_sources
from tests.toys.sweeps import write_sweep

pytestmark = pytest.mark.quick


def cells_of(folder: Path, **axes):
    path = write_sweep(folder, axes={"recovery": ["mask", "zero"], **axes, "seed": [0, 1]})
    return matrix(read_definition(path), folder)


def test_a_source_that_cannot_be_opened_is_told_once_with_the_cells_that_need_it(tmp_path):
    (tmp_path / "raw").mkdir()
    levels = {"digits": {}, "har": {"data": {"name": "uci_har"}}, "meld": {"data": {"name": "meld", "root": "raw"}}}
    with pytest.raises(DataError) as raised:
        check_sources(cells_of(tmp_path, data=levels))
    told = str(raised.value)
    assert told.startswith("the 4 cells with data=har: data.root: expected a folder prepared for 'uci_har', found none")
    assert f"; the 4 cells with data=meld: data.root: expected a folder prepared for 'meld', found {tmp_path}" in told
    assert "data=digits" not in told and told.count("expected a folder") == 2 and "\n" not in told
    assert told.endswith("No cell was started; --only axis=level runs those whose data are there")


def test_a_root_that_does_not_exist_is_told_of_every_cell_to_run_and_matters_to_no_other(tmp_path):
    levels = {name: {"data": {"name": "folder", "root": name}, "name": name} for name in ("there", "far")}
    cells = cells_of(tmp_path, data={"here": {}, **levels})
    with pytest.raises(DataError) as raised:
        check_sources(cells)
    words = [
        f"the 4 cells with data={name}: data.root: expected an existing folder or file, found no {tmp_path / name} ("
        for name in levels
    ]
    assert all(word in str(raised.value) for word in words)
    check_sources([cell for cell in cells if cell.labels["data"] == "here"])


def test_each_source_is_opened_once_and_none_is_kept(tmp_path):
    dataset.forget_datasets()
    opened = []
    loader = dataset.DATASETS.get("polydigits")
    load = loader.load

    def counted(self, params, root, seed):
        opened.append(params.modalities)
        return load(self, params, root, seed)

    cells = cells_of(tmp_path, data={"two": {}, "three": {"data.modalities": 3}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load", counted)
        check_sources(cells)
    assert sorted(opened) == [2, 3]
    assert dataset._load.cache_info().currsize == 0


def test_cells_are_named_by_what_sets_them_apart():
    every = [{"a": a, "b": b, "seed": seed} for a in "xy" for b in "pq" for seed in "01"]
    for kept, words in (
        (every, "all 8 cells"),
        (every[:1], "cell a=x, b=p, seed=0"),
        (every[:4], "the 4 cells with a=x"),
        (every[2:4], "the 2 cells with a=x, b=q"),
        ([every[0], every[7]], "2 cells (a=x, b=p, seed=0 and a=y, b=q, seed=1)"),
    ):
        faults = Faults()
        faults.add("it lacks", kept)
        assert faults.told(every) == f"{words}: it lacks"
