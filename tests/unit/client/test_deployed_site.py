"""A site with data of its own: it writes below its folder of state and nowhere else, and counts what it holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client.deployed
from client.deployed import DeployedSite
from fedrecon_core.data.site_folder.write import write_folder
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS
from server.engines.base import Job
from strategies import messages
from strategies.messages import TrainInstruction
from tests.helpers.folders import content
from tests.helpers.runs import SiteGrid
from tests.helpers.toy import tiny_dataset, toy_config

pytestmark = pytest.mark.quick

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
