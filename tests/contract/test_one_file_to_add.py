"""One file to add: a toy method in a package of its own enters the registry by being found, and passes the same checks.

The last tests break a promise on purpose, to show that the checks can fail.
"""

import inspect
import sys
from contextlib import ExitStack
from textwrap import dedent

import pytest

from fedrecon_core import registry
from fedrecon_core.registry import discover
from tests.contract import (
    fusion_checks,
    metric_checks,
    modality_checks,
    partition_checks,
    test_datasets,
    test_recoveries,
    test_strategies,
)
from tests.helpers.contract_support import restored
from tests.helpers.plugin import METRIC, RECOVERY

MODALITY = """
    from torch import nn
    from fedrecon_core.config import Params
    from fedrecon_core.modalities.base import GaussianHead, ModalityKind
    from fedrecon_core.registry import MODALITIES

    class Linear(nn.Linear):
        def forward(self, values, lengths=None):
            return super().forward(values).unsqueeze(1), None

    class Encoder(GaussianHead):
        def forward(self, values, lengths=None):
            return super().forward(values)

    class DialParams(Params):
        name: str = "dial"

    @MODALITIES.register("dial")
    class Dial(ModalityKind):
        Params = DialParams
        def encoder(self, latent):
            return Encoder(self.spec.shape[0], latent)
        def decoder(self, latent):
            return nn.Linear(latent, self.spec.shape[0])
        def extractor(self, width):
            size, = self.spec.shape
            return Linear(size, width)
"""
FUSION = """
    from fedrecon_core.config import Params
    from fedrecon_core.errors import ConfigError
    from fedrecon_core.registry import FUSIONS
    from fedrecon_core.task.model import Fusion

    class AverageParams(Params):
        name: str = "average"

    @FUSIONS.register("average")
    class Average(Fusion):
        Params = AverageParams
        def __init__(self, params, shape):
            super().__init__(params, shape)
            if shape.learned_weight is not None:
                raise ConfigError("recovery.weighting: 'learned' needs task.fusion: attention, found average")
            self.outputs = shape.width
        def forward(self, tokens):
            if tokens.mask.shape[1] == 0:
                return tokens.values.new_zeros(len(tokens.mask), self.outputs)
            weight = (tokens.log_weight.exp() * tokens.mask)[..., None]
            return (weight * tokens.values).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-12)
"""
STRATEGY = """
    import torch
    from fedrecon_core.registry import STRATEGIES
    from strategies.fedavg import FedAvg, FedAvgParams

    class SlowParams(FedAvgParams):
        name: str = "slow"

    @STRATEGIES.register("slow")
    class Slow(FedAvg):
        '''Half a step towards the average.'''
        Params = SlowParams
        def server_step(self, group, old, average):
            return {name: torch.lerp(tensor, average[name], 0.5) for name, tensor in old.items()}
"""
PARTITION = """
    import numpy as np
    from fedrecon_core.config import Params
    from fedrecon_core.data.partitions.base import Partition
    from fedrecon_core.registry import PARTITIONS

    @PARTITIONS.register("dice")
    class Dice(Partition):
        def _assign(self, params, labels, natural_ids, sites, rng_seed):
            return np.random.default_rng(rng_seed).integers(0, sites, len(labels))
"""
DATASET = """
    from dataclasses import replace
    from fedrecon_core.registry import DATASETS
    from tests.helpers.toy import Toy, tiny_dataset

    @DATASETS.register("other_toy")
    class OtherToy(Toy):
        def load(self, params, root, seed):
            dataset = tiny_dataset(seed=1)
            return replace(dataset, spec=dataset.spec.model_copy(update={"name": "other_toy"}))
"""
ADDED = [
    pytest.param(registry.RECOVERIES, "ramp", RECOVERY, test_recoveries.CHECKS, id="recovery"),
    pytest.param(registry.MODALITIES, "dial", MODALITY, modality_checks.CHECKS, id="modality"),
    pytest.param(registry.FUSIONS, "average", FUSION, fusion_checks.CHECKS, id="fusion"),
    pytest.param(registry.METRICS, "worst_recall", METRIC, metric_checks.CHECKS, id="metric"),
    pytest.param(registry.PARTITIONS, "dice", PARTITION, partition_checks.CHECKS, id="partition"),
]


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Write a source file into a new package, discover the package, and forget all of it afterwards."""
    folder = tmp_path / "toy_extension"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    registries = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]

    def write(source):
        (folder / "added.py").write_text(dedent(source), encoding="utf-8")
        discover(["toy_extension"])

    with ExitStack() as stack:
        for found in registries:
            stack.enter_context(restored(found))
        yield write
    for module in ("toy_extension", "toy_extension.added"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(("known", "name", "source", "checks"), ADDED)
def test_a_file_with_a_toy_passes_the_same_checks(known, name, source, checks, add):
    assert name not in known.names()
    add(source)
    assert name in known.names()
    for check in checks:
        check(name)


def test_a_file_with_a_toy_strategy_passes_the_same_checks(add, tmp_path):
    add(STRATEGY)
    for check in test_strategies.CHECKS:
        check(*(("slow", tmp_path / "checkpoints") if check.__name__.endswith("checkpoint") else ("slow",)))


def test_a_file_with_a_toy_data_set_passes_the_same_checks(add, tmp_path):
    add(DATASET)
    config = test_datasets.config_of("other_toy", "default", None)
    known = {"config": config, "tmp_path": tmp_path}
    known |= {name: test_datasets.build(config) for name in ("dataset", "again")}
    named = {check: {*inspect.signature(check).parameters} for check in vars(test_datasets).values() if is_test(check)}
    checks = [check for check, needs in named.items() if needs <= {*known}]  # the others are about prepared sets
    assert len(checks) > 8
    for check in checks:
        check(**{name: known[name] for name in named[check]})


def is_test(found):
    return getattr(found, "__name__", "").startswith("test_")


def test_what_a_test_added_is_forgotten():
    added = {"ramp", "dial", "average", "worst_recall", "dice", "slow", "other_toy"}
    registries = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    assert not added & {name for found in registries for name in found.names()}


# --- the checks can fail --------------------------------------------------------------------------------------------

BROKEN = {
    "noise outside its stream": (
        "check_groups_start_the_same_whenever_and_with_whatever_they_are_built",
        """
        def build(self, names=None):
            return {name: self.builders()[name]() for name in sorted(names or self.builders())}
    """,
    ),
    "uploads what it never received": (
        "check_plan_of_every_selection_of_modalities_is_sound",
        """
        def plan(self, modalities):
            plan = super().plan(modalities)
            return type(plan)(plan.download[:-1], plan.upload)
    """,
    ),
    "fills what is present": (
        "check_fills_stand_only_where_something_is_absent",
        """
        def absent(self, batch, name):
            return torch.arange(batch.size)
    """,
    ),
    "weights of zero": (
        "check_fills_stand_only_where_something_is_absent",
        """
        def recover(self, batch, groups, global_info):
            from dataclasses import replace
            return [replace(fill, weight=0 * fill.weight) for fill in super().recover(batch, groups, global_info)]
    """,
    ),
    "trains nothing": (
        "check_local_round_keeps_to_its_plan",
        """
        def stages(self, context):
            return []
    """,
    ),
    "reads absent rows without saying so": (
        "check_reads_absent_is_declared_truly",
        """
        reads_absent = True
    """,
    ),
    "remembers what it saw": (
        "check_predicts_twice_the_same_and_changes_nothing",
        """
        def recover(self, batch, groups, global_info):
            with torch.no_grad():
                next(groups["task.head"].parameters()).add_(1)
            return super().recover(batch, groups, global_info)
    """,
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_toy_recovery_that_breaks_a_promise_is_caught(fault, add):
    label, body = BROKEN[fault]
    add(dedent(RECOVERY) + "\n" + "\n".join(f"    {line}" for line in dedent(body).strip().splitlines()))
    with pytest.raises(AssertionError):
        getattr(test_recoveries, label)("ramp")


def test_a_toy_strategy_whose_steps_are_ten_times_too_long_is_caught(add):
    add(STRATEGY.replace("average[name], 0.5)", "average[name], 10.0)"))
    with pytest.raises(AssertionError, match=r"chance is 0\.33"):
        test_strategies.check_its_defaults_learn_whatever_the_sites_optimiser("slow")
