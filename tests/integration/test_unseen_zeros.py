"""The benchmark's protocol through the real apps: recurrent extractors over halved windows, sites that lack a sensor,
zeros that the fusion does not see. The configs are the project's own, over eight made-up subjects and with small
networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.state import EXTRACTORS, HEAD_GROUP, State, extractor_group, read_group
from server.engines.base import Job
from server.engines.inprocess import InProcess
from server.runs.setup import RunSetup, create_run
from server.training.checkpoints import load_newest
from tests.helpers import runs
from tests.helpers.raw_uci_har import root

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "fedmultimodal"
SITES, SITTING_OUT = 12, 1
"""Two for each training subject; this seed leaves one of them without both sensors."""
ACC, GYRO = extractor_group("acc"), extractor_group("gyro")
SMALL = (
    f"sites.count={SITES}",
    "sites.fraction=1",
    "data.partition.shards=2",
    "data.partition.least=1",
    "missing.train.rate=0.5",
    "modalities.sequence.extractor={convolutions: [4, 6, 8], dropout: 0}",
    "task={width: 8, hidden: 8, dropout: 0, fusion: {name: attention, heads: 2, hidden: 16, bias: true}}",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunSetup]:
    """A whole run of the config of a strategy; it is prepared with settings and was run when it is returned."""
    data = root(tmp_path_factory.mktemp("uci_har"))

    def run(strategy: str, *settings: str) -> RunSetup:
        out = tmp_path_factory.mktemp(strategy) / "run"
        config = CONFIGS / f"uci_har_{strategy}.yaml"
        prepared = create_run(config, [f"data.root={data}", *SMALL, *settings], out=out)
        InProcess().run(Job.of(prepared))
        return prepared

    return run


def lacking(line: dict[str, Any], group: str) -> bool:
    """Whether a site sent ``group`` and no real sample has passed through it there."""
    return bool(line["counts"][group] > 0 == line["real"][group])


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_no_honest_site_is_refused_where_most_lack_a_sensor(strategy: str, trained: Callable[..., RunSetup]) -> None:
    """What weight decay alone makes of an extractor is next to nothing: with these sites as the measure
    (``updates.limit``), those that have the sensor would be refused."""
    prepared = trained(strategy, "rounds=3")
    directory, config = prepared.directory.path, prepared.config
    assert config.recovery.attended is False and config.missing.empty == "skip"  # type: ignore[attr-defined]
    assert config.updates.limit is not None and config.local.task.weight_decay > 0
    lines = runs.lines(directory, "sites.jsonl")
    assert [line["status"] for line in lines] == ["ok"] * 3 * (SITES - SITTING_OUT)
    first = lines[: SITES - SITTING_OUT]
    assert sum(lacking(line, GYRO) for line in first) > len(first) / 2 > sum(lacking(line, ACC) for line in first) > 0
    for line in lines:
        assert {ACC, GYRO, HEAD_GROUP} <= set(line["groups_up"]), "zeros that nobody sees are averaged as well"
        assert not (lacking(line, ACC) and lacking(line, GYRO))
    assert runs.result(directory)["status"] == "completed"


def state_of(prepared: RunSetup) -> dict[str, State]:
    """The global groups after the last round."""
    found = load_newest(prepared.directory.path / "checkpoints")
    assert found is not None
    return found.groups


def test_unseen_zeros_leave_the_head_alone_and_hold_extractors_back(trained: Callable[..., RunSetup]) -> None:
    """After one round the head is that of ``mask``; an extractor has gone its way by the share of the samples that
    passed through it for real."""
    prepared = trained("fedavg", "rounds=1")
    unseen, mask = state_of(prepared), state_of(trained("fedavg", "rounds=1", "recovery=mask"))
    start = recovery_for(prepared.config, load_dataset(prepared.config).spec).build()
    lines = runs.lines(prepared.directory.path, "sites.jsonl")
    for group, state in unseen.items():
        counts, real = (sum(line[key][group] for line in lines) for key in ("counts", "real"))
        assert (real < counts) == group.startswith(EXTRACTORS)
        before = read_group(start[group])
        for name, tensor in state.items():
            expected = torch.lerp(before[name], mask[group][name], real / counts)
            torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
        assert max(float((mask[group][name] - tensor).abs().max()) for name, tensor in before.items()) > 1e-4
