"""``zero`` whose zeros the fusion does not see, as in the benchmark: ``mask`` in all but what is averaged."""

import pytest
import torch

from fedrecon_core.state import extractor_group
from tests.toys.federation import toy_recovery
from tests.unit.test_recovery_stages import changed, job_of, only, train

pytestmark = pytest.mark.quick

TASK = {"local": {"task": {"optimizer": "sgd", "lr": 0.1, "batch": 16}}}
UNSEEN = {"name": "zero", "attended": False}


def test_what_the_site_has_trains_as_under_mask():
    unseen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in (UNSEEN, "mask"))
    for group, state in mask.groups.items():
        for name, tensor in state.items():
            torch.testing.assert_close(unseen.groups[group][name], tensor)


def test_what_it_lacks_goes_back_as_it_came_and_is_averaged():
    job = job_of(toy_recovery(UNSEEN, **TASK), only("picture"))
    result = train(job)
    absent = {extractor_group(name) for name in ("features", "steps")}
    assert absent <= set(result.counts) and not absent & changed(job, result)
    assert all(result.real[group] == 0 for group in absent)


def test_zeros_that_are_seen_change_what_the_site_learns():
    seen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in ("zero", "mask"))
    before, after = mask.groups["task.head"], seen.groups["task.head"]
    assert any(not torch.allclose(tensor, after[name]) for name, tensor in before.items())
