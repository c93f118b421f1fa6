"""The newest checkpoint is damaged: the run goes on from the one before, and sites still have what belongs to it."""

import shutil

import pytest

from fedrecon_core.errors import RunError
from strategies.fedavg import FedAvg
from tests.helpers import runs
from tests.integration.test_run import Momentum, stop_in

pytestmark = pytest.mark.faults


def test_a_run_that_goes_back_two_rounds_ends_like_one_that_never_stopped(tmp_path, monkeypatch):
    """Round 4 is over at the sites when the server dies; its checkpoint of round 3 cannot be read, so 3 is repeated."""
    monkeypatch.setattr(FedAvg, "local_half", staticmethod(lambda params: Momentum()))
    raw = runs.settings(rounds=4, local={"task": {"optimizer": "sgd", "lr": 0.01}})
    whole = runs.run(tmp_path / "whole", raw)
    with monkeypatch.context() as patch:
        stop_in(4, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.run(tmp_path / "cut", raw)
    cut = tmp_path / "cut" / "run"
    newest = cut / "checkpoints" / "round-000003"
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"round-000003 cannot be read: .*; remove it to resume from the one before"):
        runs.resume(cut)
    shutil.rmtree(newest)
    assert runs.result(runs.resume(cut))["parameters_sha256"] == runs.result(whole)["parameters_sha256"]
