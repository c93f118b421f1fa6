"""What a site keeps between rounds: a repeated round finds what the round before it left."""

import pytest
import torch

from client.shelf import DiskShelf

pytestmark = pytest.mark.quick


def groups(value: float) -> dict:
    return {"mapping.a->b": {"body.0.weight": torch.full((2, 2), value)}, "task.head": {"b": torch.tensor(value)}}


def value(kept: dict) -> float:
    return kept["task.head"]["b"].item()


def test_the_first_round_finds_nothing(tmp_path):
    assert DiskShelf(tmp_path / "site", 1).load("frozen") == {}
    assert not (tmp_path / "site").exists()


def test_the_next_round_finds_all_groups(tmp_path):
    DiskShelf(tmp_path, 1).save("frozen", groups(1.0))
    back = DiskShelf(tmp_path, 2).load("frozen")
    assert back.keys() == groups(1.0).keys()
    for group, state in groups(1.0).items():
        assert back[group].keys() == state.keys()
        assert all(torch.equal(back[group][name], tensor) for name, tensor in state.items())


def test_names_are_apart(tmp_path):
    DiskShelf(tmp_path, 1).save("frozen", groups(1.0))
    DiskShelf(tmp_path, 1).save("hook", groups(2.0))
    assert value(DiskShelf(tmp_path, 2).load("frozen")) == 1.0
    assert value(DiskShelf(tmp_path, 2).load("hook")) == 2.0


def test_a_round_that_was_skipped_loses_nothing(tmp_path):
    DiskShelf(tmp_path, 3).save("hook", groups(3.0))
    assert value(DiskShelf(tmp_path, 12).load("hook")) == 3.0


def test_a_repeated_round_reads_the_version_before_it(tmp_path):
    DiskShelf(tmp_path, 9).save("hook", groups(9.0))
    DiskShelf(tmp_path, 10).save("hook", groups(10.0))
    assert value(DiskShelf(tmp_path, 10).load("hook")) == 9.0
    DiskShelf(tmp_path, 10).save("hook", groups(10.5))
    assert value(DiskShelf(tmp_path, 11).load("hook")) == 10.5


def test_two_versions_stay(tmp_path):
    for round_ in range(8, 13):
        DiskShelf(tmp_path, round_).save("hook", groups(float(round_)))
    assert len(list(tmp_path.iterdir())) == 2
    assert value(DiskShelf(tmp_path, 12).load("hook")) == 11.0
    assert value(DiskShelf(tmp_path, 13).load("hook")) == 12.0


def test_a_half_written_version_is_not_read(tmp_path):
    DiskShelf(tmp_path, 1).save("hook", groups(1.0))
    (tmp_path / "hook.round-000002.partial").write_bytes(b"half")
    assert value(DiskShelf(tmp_path, 3).load("hook")) == 1.0
