"""A site: its state on disk between rounds, and its data in a deployment."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

import client.deployed
from client.deployed import DeployedSite
from client.site_store import DiskSiteStore
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS
from server.engines.base import Job
from strategies import messages
from strategies.messages import Accepted, TrainInstruction
from tests.helpers.folders import content
from tests.helpers.runs import SiteGrid
from tests.helpers.toy import tiny_dataset, toy_config

pytestmark = pytest.mark.quick


# --- stored state -----------------------------------------------------------------------------------------------------


def groups(value: float) -> dict:
    return {"mapping.a->b": {"body.0.weight": torch.full((2, 2), value)}, "task.head": {"b": torch.tensor(value)}}


def value(kept: dict) -> float:
    return kept["task.head"]["b"].item()


def test_the_first_round_finds_nothing(tmp_path):
    assert DiskSiteStore(tmp_path / "site", 1).load("frozen") == {}
    assert not (tmp_path / "site").exists()


def test_a_folder_that_cannot_be_written_is_reported_before_it_is_needed(tmp_path):
    DiskSiteStore(tmp_path / "not" / "yet", 1).require()
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"state folder .*file/site cannot be written: .*file is not a folder that this user"
    ):
        DiskSiteStore(tmp_path / "file" / "site", 1).require()


def test_the_next_round_finds_all_groups(tmp_path):
    DiskSiteStore(tmp_path, 1).save("frozen", groups(1.0))
    back = DiskSiteStore(tmp_path, 2).load("frozen")
    assert back.keys() == groups(1.0).keys()
    for group, state in groups(1.0).items():
        assert back[group].keys() == state.keys()
        assert all(torch.equal(back[group][name], tensor) for name, tensor in state.items())


def test_names_are_apart(tmp_path):
    DiskSiteStore(tmp_path, 1).save("frozen", groups(1.0))
    DiskSiteStore(tmp_path, 1).save("hook", groups(2.0))
    assert value(DiskSiteStore(tmp_path, 2).load("frozen")) == 1.0
    assert value(DiskSiteStore(tmp_path, 2).load("hook")) == 2.0


def test_a_round_that_was_skipped_loses_nothing(tmp_path):
    DiskSiteStore(tmp_path, 3).save("hook", groups(3.0))
    assert value(DiskSiteStore(tmp_path, 12).load("hook")) == 3.0


def test_a_repeated_round_reads_the_version_before_it(tmp_path):
    DiskSiteStore(tmp_path, 9).save("hook", groups(9.0))
    DiskSiteStore(tmp_path, 10).save("hook", groups(10.0))
    assert value(DiskSiteStore(tmp_path, 10).load("hook")) == 9.0
    DiskSiteStore(tmp_path, 10).save("hook", groups(10.5))
    assert value(DiskSiteStore(tmp_path, 11).load("hook")) == 10.5


def took_part_in(folder, *rounds: int) -> None:
    for round_ in rounds:
        DiskSiteStore(folder, round_).save("hook", groups(float(round_)))


def test_three_versions_stay(tmp_path):
    took_part_in(tmp_path, *range(8, 13))
    assert len(list(tmp_path.iterdir())) == 3
    for round_ in (11, 12, 13):
        assert value(DiskSiteStore(tmp_path, round_).load("hook")) == round_ - 1


def test_a_server_that_falls_back_to_its_older_checkpoint_finds_the_sites_state(tmp_path):
    """Checkpoints of rounds 7 and 8, round 9 finished at the site; 8 is damaged, so round 8 is repeated."""
    took_part_in(tmp_path, *range(1, 10))
    assert value(DiskSiteStore(tmp_path, 8).load("hook")) == 7.0


@pytest.mark.parametrize("rounds", [(1, 2, 3, 4, 5, 6), (3, 6, 7, 9)])
def test_a_lost_version_is_reported_and_never_taken_for_none(tmp_path, rounds):
    took_part_in(tmp_path, *rounds)
    words = r"round 4 is repeated and needs 'hook' of an earlier round, found only rounds .*restore .* from a backup"
    with pytest.raises(DataError, match=words):
        DiskSiteStore(tmp_path, 4).load("hook")
    assert DiskSiteStore(tmp_path, 1).load("hook") == {}


@pytest.mark.parametrize("after", [(), (4,), (4, 5, 6, 7)])
def test_a_site_that_first_took_part_in_the_repeated_round_begins_with_nothing(tmp_path, after):
    took_part_in(tmp_path, 3, *after)
    assert DiskSiteStore(tmp_path, 3).load("hook") == {}


def test_what_came_after_a_repeated_round_is_forgotten(tmp_path):
    took_part_in(tmp_path, 5, 6, 7)
    DiskSiteStore(tmp_path, 4).save("hook", groups(4.5))
    assert value(DiskSiteStore(tmp_path, 7).load("hook")) == 4.5
    took_part_in(tmp_path, 5, 6, 7)
    with pytest.raises(DataError, match="found only rounds 5, 6, 7"):  # the first is round 4 now
        DiskSiteStore(tmp_path, 5).load("hook")


@pytest.mark.parametrize(("rounds", "words"), [((1, 2), "continue from the version before"), ((2,), "start over")])
def test_a_damaged_version_is_named_with_what_removing_it_means(tmp_path, rounds, words):
    took_part_in(tmp_path, *rounds)
    (tmp_path / "hook.round-000002.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError, match=rf"hook\.round-000002\.safetensors cannot be read: .*{words}"):
        DiskSiteStore(tmp_path, 3).load("hook")
    DiskSiteStore(tmp_path, 2).save("hook", groups(2.5))
    assert value(DiskSiteStore(tmp_path, 3).load("hook")) == 2.5


# --- the version that the server accepted -----------------------------------------------------------------------------


def accepted(folder, round_: int, **older: int) -> dict:
    return DiskSiteStore(folder, 99, Accepted(round_, {"task.head": older["head"]} if older else {})).load_accepted(
        "hook"
    )


def test_before_the_first_accepted_reply_there_is_nothing_whatever_was_saved(tmp_path):
    took_part_in(tmp_path, 1, 2)
    assert accepted(tmp_path, 0) == {}


def test_exactly_the_accepted_version_is_read(tmp_path):
    took_part_in(tmp_path, 1, 2, 3)
    assert [value(accepted(tmp_path, round_)) for round_ in (1, 2, 3)] == [1.0, 2.0, 3.0]


def test_a_group_that_was_left_out_comes_from_an_older_version(tmp_path):
    took_part_in(tmp_path, 1, 2)
    found = accepted(tmp_path, 2, head=1)
    assert found["task.head"]["b"].item() == 1.0 and found["mapping.a->b"]["body.0.weight"][0, 0].item() == 2.0
    assert set(accepted(tmp_path, 2, head=0)) == {"mapping.a->b"}


def test_versions_that_the_server_may_ask_for_outlive_any_number_of_lost_replies(tmp_path):
    """Round 5 was accepted, when the server went by round 2, and by round 1 of one group; rounds 6 to 20 were lost."""
    took_part_in(tmp_path, 1, 2)
    DiskSiteStore(tmp_path, 5, Accepted(2, {"task.head": 1})).save("hook", groups(5.0))
    for round_ in range(6, 21):
        DiskSiteStore(tmp_path, round_, Accepted(5)).save("hook", groups(float(round_)))
    assert value(accepted(tmp_path, 5)) == 5.0
    assert value(accepted(tmp_path, 2, head=1)) == 1.0  # after a return to the checkpoint before round 5
    assert len(list(tmp_path.iterdir())) == 3 + 3


@pytest.mark.parametrize(("kept", "found"), [((), "no version"), ((1, 4), "only rounds 1, 4")])
def test_a_lost_accepted_version_is_reported_with_the_folder_and_the_versions_in_it(tmp_path, kept, found):
    took_part_in(tmp_path, *kept)
    words = (
        rf"^state folder {tmp_path}: expected 'hook' of round 3, which the server accepted .*, found {found}; restore"
    )
    with pytest.raises(DataError, match=words):
        accepted(tmp_path, 3)


def test_an_accepted_version_that_is_damaged_is_named_and_no_other_is_taken(tmp_path):
    took_part_in(tmp_path, 1, 2)
    (tmp_path / "hook.round-000002.safetensors").write_bytes(b"garbage")
    with pytest.raises(
        DataError, match=r"hook\.round-000002\.safetensors cannot be read: .*; .*restore it from a backup"
    ):
        accepted(tmp_path, 2)


def test_a_half_written_version_is_not_read(tmp_path):
    DiskSiteStore(tmp_path, 1).save("hook", groups(1.0))
    (tmp_path / ".hook.round-000002.safetensors.partial").write_bytes(b"half")
    assert value(DiskSiteStore(tmp_path, 3).load("hook")) == 1.0
    took_part_in(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 2  # and goes with the next one


# --- deployed sites ---------------------------------------------------------------------------------------------------


TOY = tiny_dataset(24, 12, scale="standard")
RUN = "0123456789abcdef" * 2


@pytest.fixture
def site(tmp_path):
    """``site(run, **config)``: the site in a folder where a third of everything is missing."""
    present = np.random.default_rng(0).random((len(TOY.labels), len(TOY.spec.names))) < 0.66
    present[::5] = False  # some have nothing at all
    write_folder(tmp_path / "data", content(TOY, present))
    node = {"site": "north", "data": str(tmp_path / "data"), "state": str(tmp_path / "state")}

    def made(run: str = RUN, **config) -> DeployedSite:
        text = json.dumps(toy_config(**config).model_dump(mode="json"))
        return DeployedSite(Context(1, 2, node, RecordDict(), {}), TrainInstruction("north", text, 1, run))

    return made


def test_each_run_has_a_folder_of_its_own_below_the_folder_of_state(site, tmp_path):
    assert site().folder == tmp_path / "state" / RUN


@pytest.mark.parametrize(
    "run", ["", ".", "..", "../../x", "/etc/cron.d", f"{RUN}/..", f"{RUN}\n", RUN[:-1], RUN.upper(), "runs/x", "0" * 33]
)
def test_a_run_that_could_lead_elsewhere_is_refused_and_nothing_is_written(site, tmp_path, run):
    with pytest.raises(DataError, match=r"expected a run of 32 digits .* from the server .*; nothing was written"):
        site(run).store.save("hook", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize("empty", ["redraw", "allow"])
def test_what_it_says_it_holds_is_what_its_data_hold(site, empty):
    found = site(missing={"empty": empty})
    for split in SPLITS:
        data, held = found.data(split), found.own.holdings[split]
        assert held.samples == len(data) > 0
        assert list(held.present.values()) == data.present.sum(dim=0).tolist()
        assert held.modalities == data.modalities


def test_the_data_are_opened_once_to_describe_them(site, monkeypatch):
    opened = []

    def counted(dataset, split, **options):
        opened.append(split)
        return original(dataset, split, **options)

    original = client.deployed.open_split
    monkeypatch.setattr(client.deployed, "open_split", counted)
    found = site()
    grid = SiteGrid(Job(Path("config"), Path("out"), False, sites=1), {"north": found.node_config})
    instruction = messages.write_instruction(found.instruction)
    [reply] = grid.send_and_receive([Message(instruction, grid.node_of["north"], messages.DESCRIBE_TYPE)])
    assert messages.read_site_info(reply.content).own.holdings["test"].samples > 0
    assert opened == ["train"]
