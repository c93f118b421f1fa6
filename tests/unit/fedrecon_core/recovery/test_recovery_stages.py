"""FedRecon's three stages: what each trains, what it leaves alone, and what comes back from a local round."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fedrecon_core.errors import RunError
from fedrecon_core.local.hook import LocalHook, StageStats
from fedrecon_core.local.local_round import TrainRequest, TrainResult, train_locally
from fedrecon_core.local.stage_runner import optimizer_for, run_stage
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, Objective, Stage
from fedrecon_core.seeding import torch_stream
from fedrecon_core.state import State, extractor_group, mapping_group, read_group, strategy_group
from server.runs.setup import load_config
from strategies.fedprox import FedProx, FedProxParams
from strategies.scaffold import Scaffold, ScaffoldParams
from tests.helpers.toy import NAMES, MemoryStore, everything, toy_recovery, toy_site

PHASES = ("generator", "mapping", "task")


def only(*modalities: str) -> np.ndarray:
    present = everything(48)
    present[:, [name not in modalities for name in NAMES]] = False
    return present


def job_of(recovery, present=None, *, round_=1, trained=1, hook=None) -> TrainRequest:
    data = toy_site(present=present)
    plan = recovery.plan(data.modalities)
    received = {name: read_group(module) for name, module in recovery.build(plan.download).items()}
    global_info = GlobalInfo(round_, dict.fromkeys(plan.download, trained))
    return TrainRequest("site-0000", recovery, data, plan, received, global_info, MemoryStore(), hook or LocalHook())


def train(request: TrainRequest) -> TrainResult:
    return train_locally(request, request.recovery.build(request.plan.download))


def changed(request: TrainRequest, result: TrainResult) -> set[str]:
    return {
        group
        for group, state in result.groups.items()
        if any(not torch.equal(tensor, request.received[group][name]) for name, tensor in state.items())
    }


def local(**epochs: int) -> dict:
    return {"local": {phase: {"epochs": epochs.get(phase, 1), "batch": 16} for phase in PHASES}}


def context(recovery, present=None) -> LocalContext:
    data = toy_site(present=present)
    plan = recovery.plan(data.modalities)
    return LocalContext(recovery.build(plan.download), data, GlobalInfo(1), lambda purpose: torch_stream(0, purpose))


# --- the list of stages -----------------------------------------------------------------------------------------------


def test_a_complete_site_runs_a_stage_per_generator_then_per_mapping_then_the_task():
    recovery = toy_recovery()
    local_context = context(recovery)
    stages = recovery.stages(local_context)
    assert [stage.phase for stage in stages] == ["generator"] * 3 + ["mapping"] * 6 + ["task"]
    trains = [stage.trains for stage in stages]
    assert trains[:3] == [(f"generator.{m}.encoder", f"generator.{m}.decoder") for m in NAMES]
    assert set(trains[3:9]) == {(mapping_group(a, b),) for a in NAMES for b in NAMES if a != b}
    assert set(trains[9]) == {"task.head", *(f"task.extractor.{m}" for m in NAMES)}
    for stage in stages:
        assert set(stage.trains) | set(stage.freezes) == set(local_context.groups)
        assert not set(stage.trains) & set(stage.freezes)


def test_a_site_with_one_modality_maps_nothing():
    recovery = toy_recovery()
    stages = recovery.stages(context(recovery, only("steps")))
    assert [stage.name for stage in stages] == ["generator.steps", "task"]


def test_a_pair_that_no_sample_has_together_is_not_mapped():
    present = everything(48)
    present[:24, 0] = False
    present[24:, 1] = False
    recovery = toy_recovery()
    names = {stage.name for stage in recovery.stages(context(recovery, present)) if stage.phase == "mapping"}
    pairs = {("picture", "steps"), ("features", "steps")}
    assert names == {mapping_group(a, b) for x, y in pairs for a, b in ((x, y), (y, x))}


@pytest.mark.parametrize("name", ["mask", "zero", "mean", "uniform", "oracle", {"name": "fedrecon", "weight": 0.0}])
def test_other_recoveries_have_the_task_stage_alone(name):
    recovery = toy_recovery(name)
    assert [stage.name for stage in recovery.stages(context(recovery))] == ["task"]


# --- training and freezing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(10))
def test_a_stage_changes_just_the_groups_that_it_trains(place):
    recovery = toy_recovery()
    local_context = context(recovery)
    stage = recovery.stages(local_context)[place]
    before = {name: read_group(module) for name, module in local_context.groups.items()}
    report = run_stage(
        stage, local_context, getattr(recovery.config.local, stage.phase), LocalHook(), (0, 1, "site-0000")
    )
    touched = {
        name
        for name, module in local_context.groups.items()
        if any(not torch.equal(tensor, before[name][key]) for key, tensor in read_group(module).items())
    }
    assert touched == set(stage.trains)
    assert set(report.counts) == set(stage.trains)
    assert report.steps == {"generator": 3, "mapping": 3, "task": 3}[stage.phase]


def test_the_mapping_and_task_stages_leave_the_generators_as_the_first_stage_made_them():
    after_generators = train(job_of(toy_recovery(**local(mapping=0, task=0))))
    after_all = train(job_of(toy_recovery()))
    names = [name for name in after_all.groups if name.startswith("generator.")]
    assert len(names) == 6
    for name in names:
        for key, tensor in after_all.groups[name].items():
            assert torch.equal(tensor, after_generators.groups[name][key])


@pytest.mark.parametrize(
    ("skipped", "prefix"), [("generator", "generator."), ("mapping", "mapping."), ("task", "task.")]
)
def test_a_stage_without_epochs_trains_and_returns_nothing(skipped, prefix):
    request = job_of(toy_recovery(**local(**{skipped: 0})))
    result = train(request)
    phases = {"generator.", "mapping.", "task."} - {prefix}
    assert {name.split(".")[0] + "." for name in result.groups} == phases
    assert {name.split(".")[0] + "." for name in result.counts} == phases
    assert all(report.steps == 0 for report in result.stages if report.phase == skipped)


def test_more_epochs_take_more_steps():
    reports = {stage.name: stage for stage in train(job_of(toy_recovery(**local(generator=3, task=2)))).stages}
    assert reports["generator.picture"].steps == 3 * 3
    assert reports["task"].steps == 2 * 3


def test_everything_that_came_back_was_trained():
    request = job_of(toy_recovery())
    result = train(request)
    assert set(result.groups) == set(request.plan.upload)
    assert changed(request, result) == set(result.groups)


def test_counts_are_rows_pairs_and_samples():
    present = everything(48)
    present[:10, 1] = False
    present[40:, 0] = False
    recovery = toy_recovery({"name": "fedrecon", "mapping": {"holdout": 0.25}})
    result = train(job_of(recovery, present, trained=0))
    assert result.counts["generator.features.encoder"] == result.counts["generator.features.decoder"] == 38
    assert result.counts["generator.steps.encoder"] == 48
    pairs = 30
    assert result.counts[mapping_group("picture", "features")] == pairs - int(0.25 * pairs)
    assert result.counts["task.head"] == 48
    assert result.real["task.extractor.features"] == 38


def test_fills_count_as_passed_through_and_not_as_real():
    present = everything(48)
    present[:10, 1] = False
    result = train(job_of(toy_recovery(), present))
    assert result.counts["task.extractor.features"] == 48
    assert result.real["task.extractor.features"] == 38


def test_frozen_received_groups_are_the_same_after_the_round():
    recovery = toy_recovery()
    seen = {}

    original = recovery.freeze

    def freeze(*arguments):
        frozen = original(*arguments)
        seen.update({name: (module, read_group(module)) for name, module in frozen.items()})
        return frozen

    recovery.freeze = freeze
    train(job_of(recovery))
    assert len(seen) == 12  # three encoders, three decoders, six mappings
    for module, before in seen.values():
        assert all(torch.equal(tensor, before[key]) for key, tensor in read_group(module).items())


# --- repeatability and optimisers -------------------------------------------------------------------------------------


def states_equal(one: TrainResult, two: TrainResult) -> bool:
    return one.groups.keys() == two.groups.keys() and all(
        torch.equal(tensor, two.groups[group][name])
        for group, state in one.groups.items()
        for name, tensor in state.items()
    )


def test_a_round_repeats_bit_for_bit_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = train(job_of(toy_recovery()))
    torch.manual_seed(2)
    assert states_equal(first, train(job_of(toy_recovery())))


def test_another_round_draws_another_order():
    one, two = (train(job_of(toy_recovery("mask"), round_=round_)) for round_ in (1, 2))
    assert not states_equal(one, two)


class Quadratic(Objective):
    """Pulls one weight to 3; remembers the batches."""

    def __init__(self, module: torch.nn.Linear, items: int) -> None:
        self.module, self.items = module, items
        self.seen: list[torch.Tensor] = []

    def loss(self, index):
        self.seen.append(index)
        return ((self.module.weight - 3) ** 2).sum()

    def counts(self):
        return {"only": self.items}


def toy_stage(items: int, phase, start: float = 0.0):
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, start)
    objective = Quadratic(module, items)
    local_context = LocalContext({"only": module}, toy_site(), GlobalInfo(1), lambda purpose: torch_stream(0, purpose))
    stage = Stage("only", "task", ("only",), (), lambda _: objective)
    return stage, local_context, phase, objective, module


PHASE = toy_recovery("mask").config.local.task


def test_an_epoch_visits_every_item_once_in_random_order():
    stage, local_context, phase, objective, _ = toy_stage(10, PHASE.model_copy(update={"epochs": 2, "batch": 4}))
    report = run_stage(stage, local_context, phase, LocalHook(), (0, 1, "s"))
    assert [len(index) for index in objective.seen] == [4, 4, 2] * 2
    epochs = [torch.cat(objective.seen[part]).tolist() for part in (slice(0, 3), slice(3, 6))]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert report.steps == 6


def test_optimisers_start_anew_in_every_stage():
    """Two stages of one step equal two first steps: no momentum is carried over."""
    phase = PHASE.model_copy(update={"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "batch": 4})
    stage, local_context, _, _, module = toy_stage(4, phase)
    for round_ in (1, 2):
        run_stage(stage, local_context, phase, LocalHook(), (0, round_, "s"))
    expected = 0.0
    for _ in range(2):
        expected -= 0.1 * 2 * (expected - 3)
    assert module.weight.item() == pytest.approx(expected)
    inside = toy_stage(4, phase.model_copy(update={"epochs": 2}))
    run_stage(*inside[:3], LocalHook(), (0, 1, "s"))
    assert inside[4].weight.item() != pytest.approx(expected)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"optimizer": "sgd", "lr": 0.1}, 0.6),
        ({"optimizer": "adam", "lr": 0.1}, 0.1),
        ({"clip": 0.5, "optimizer": "sgd", "lr": 0.1}, 0.05),
    ],
)
def test_one_step_of_each_optimiser(keys, expected):
    stage, local_context, phase, _, module = toy_stage(4, PHASE.model_copy(update={"batch": 4, **keys}))
    run_stage(stage, local_context, phase, LocalHook(), (0, 1, "s"))
    assert module.weight.item() == pytest.approx(expected, rel=1e-4)


def test_optimisers_take_their_keys_from_the_phase():
    phase = PHASE.model_copy(update={"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.1, "lr": 0.2})
    optimizer = optimizer_for(phase, [torch.nn.Parameter(torch.zeros(1))])
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.2, 0.5, 0.1)


def test_the_reported_loss_is_the_last_epochs_mean_over_items():
    phase = PHASE.model_copy(update={"optimizer": "sgd", "lr": 0.1, "epochs": 2, "batch": 3})
    stage, local_context, _, _, _ = toy_stage(4, phase)
    report = run_stage(stage, local_context, phase, LocalHook(), (0, 1, "s"))
    weight, losses = 0.0, []
    for _ in range(4):
        losses.append((weight - 3) ** 2)
        weight -= 0.1 * 2 * (weight - 3)
    assert report.loss == pytest.approx((losses[2] * 3 + losses[3] * 1) / 4, rel=1e-5)


@pytest.mark.parametrize("empty", ["items", "epochs"])
def test_a_stage_with_nothing_to_do_reports_no_counts(empty):
    phase = PHASE.model_copy(update={"epochs": 0 if empty == "epochs" else 1})
    stage, local_context, _, _, module = toy_stage(0 if empty == "items" else 4, phase)
    report = run_stage(stage, local_context, phase, LocalHook(), (0, 1, "s"))
    assert (report.steps, report.counts, report.real) == (0, {}, {})
    assert module.weight.item() == 0.0


# --- mapping scores and options ---------------------------------------------------------------------------------------


def test_mapping_scores_are_shares_between_0_and_1_of_each_trained_mapping():
    result = train(job_of(toy_recovery({"name": "fedrecon", "mapping": {"holdout": 0.25}})))
    assert set(result.quality) == {mapping_group(a, b) for a in NAMES for b in NAMES if a != b}
    assert all(0 <= score <= 1 for score in result.quality.values())


def test_few_held_out_pairs_give_no_score():
    assert train(job_of(toy_recovery({"name": "fedrecon", "mapping": {"holdout": 0.05}}))).quality == {}


@pytest.mark.parametrize("loss", ["forward", "paper", {"moments": 1.0}, {"kl": 0.5, "forward": 2.0}])
def test_every_mapping_loss_trains(loss):
    request = job_of(toy_recovery({"name": "fedrecon", "mapping": {"loss": loss}}, **local(task=0)))
    result = train(request)
    mappings = {mapping_group(a, b) for a in NAMES for b in NAMES if a != b}
    assert mappings <= changed(request, result)
    assert all(np.isfinite(report.loss) for report in result.stages)


def test_reconstruct_all_reaches_the_task_model_of_a_complete_site():
    absent, every = (train(job_of(toy_recovery({"name": "fedrecon", "reconstruct": r}))) for r in ("absent", "all"))
    generators = [name for name in absent.groups if name.startswith("generator.")]
    for name in generators:
        assert all(torch.equal(t, every.groups[name][key]) for key, t in absent.groups[name].items())
    head = "task.head"
    assert any(not torch.equal(t, every.groups[head][key]) for key, t in absent.groups[head].items())


def test_a_site_without_what_it_lacks_trains_like_mask_until_tokens_come():
    """Round 1 of a warm-up: FedRecon's task stage is mask's, since no token is made."""
    recovery = toy_recovery({"name": "fedrecon", "warmup_rounds": 2})
    fedrecon, mask = train(job_of(recovery, only("picture"))), train(job_of(toy_recovery("mask"), only("picture")))
    for name in ("task.head", "task.extractor.picture"):
        assert all(torch.equal(t, fedrecon.groups[name][key]) for key, t in mask.groups[name].items())
    assert "task.extractor.steps" not in fedrecon.groups


def test_frozen_generators_stay_unchanged_while_mappings_train():
    recovery = toy_recovery({"name": "fedrecon", "generator_rounds": 2})
    last, settled = (train(job_of(recovery, round_=round_)) for round_ in (2, 3))
    generators = {name for name in last.groups if name.startswith("generator.")}
    assert len(generators) == 2 * len(NAMES)
    assert set(last.groups) - set(settled.groups) == generators  # not sent again, since nothing changed them
    assert {name for name in settled.groups if name.startswith("mapping.")} == {
        mapping_group(a, b) for a in NAMES for b in NAMES if a != b
    }
    assert not any(report.name.startswith("generator.") for report in settled.stages)


def test_settled_generators_leave_frozen_and_local_reconstructions_by_the_same_decoder():
    """What a mapping is trained on after that is what the received generators encode."""
    recovery = toy_recovery({"name": "fedrecon", "generator_rounds": 1})
    request = job_of(recovery, round_=2)
    modules = recovery.build(request.plan.download)
    train_locally(request, modules)
    for name in (group for group in modules if group.startswith("generator.")):
        assert all(torch.equal(t, request.received[name][key]) for key, t in read_group(modules[name]).items())


class Watching(LocalHook):
    """Records its calls, and does not upload the extractor of ``picture``."""

    def __init__(self):
        self.began, self.steps, self.paces = None, [], {}

    def begin(self, context, memory):
        self.began = (sorted(context.groups), dict(memory.received))

    def gradients(self, parameters):
        self.steps.append(sorted({name.split("/")[0] for name, _ in parameters}))

    def select_uploads(self, groups):
        return [group for group in groups if group != "task.extractor.picture"]

    def end(self, paces):
        self.paces = dict(paces)
        return {"strategy.toy.task.head": {"c": torch.ones(2)}}, {"kept": {"c": torch.zeros(1)}}


def test_the_strategys_local_half_gets_stats_of_every_stage_and_selects_uploads():
    hook, beside = Watching(), {"strategy.toy.task.head": {"c": torch.zeros(2)}}
    request = replace(job_of(toy_recovery(local={"task": {"lr": 0.25}}), hook=hook), strategy_groups=beside)
    result = train(request)
    assert hook.began == (sorted(request.plan.download), beside)
    stages = [stage for stage in result.stages for _ in range(stage.steps)]
    assert [{"task."} if stage.phase == "task" else {stage.phase + "."} for stage in stages] == [
        {name.split(".")[0] + "." for name in names} for names in hook.steps
    ]
    task = result.stages[-1]
    assert hook.paces["task.head"] == StageStats(task.steps, 0.25)
    assert set(hook.paces) == set(result.groups) - set(beside)
    assert "task.extractor.picture" not in {*result.groups, *result.counts, *result.real}
    assert result.counts["strategy.toy.task.head"] == 48
    assert torch.equal(result.groups["strategy.toy.task.head"]["c"], torch.ones(2))
    assert set(request.store.kept["hook"]) == {"kept"} and result.kept and not train(job_of(toy_recovery())).kept


@pytest.mark.parametrize(("round_", "lr"), [(1, 0.4), (3, 0.1)])
def test_a_learning_rate_decays_from_round_to_round_and_the_strategy_gets_it(round_, lr):
    keys = {"lr": 0.4, "epochs": 1, "batch": 16, "optimizer": "sgd"}
    decayed, plain = (
        toy_recovery("mask", local={"task": task}) for task in ({**keys, "lr_decay": 0.5}, {**keys, "lr": lr})
    )
    hook = Watching()
    ours, reference = train(job_of(decayed, round_=round_, hook=hook)), train(job_of(plain, round_=round_))
    assert hook.paces["task.head"].lr == pytest.approx(lr)
    for name, tensor in ours.groups["task.head"].items():
        assert torch.allclose(tensor, reference.groups["task.head"][name], atol=1e-6)


def test_a_recovery_whose_stages_train_a_group_twice_is_named(monkeypatch):
    request = job_of(toy_recovery("mask"))
    once = request.recovery.stages
    monkeypatch.setattr(
        request.recovery,
        "stages",
        lambda local_context: [*once(local_context), replace(once(local_context)[0], name="again")],
    )
    words = r"^stages of the recovery: task\..*: expected one stage that trains it, found task and again; merge these"
    with pytest.raises(RunError, match=words):
        train(request)


def test_a_gradient_hook_changes_the_step():
    class Stop(LocalHook):
        def gradients(self, parameters):
            for _, parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)

    recovery = toy_recovery("mask", local={"task": {"optimizer": "sgd", "lr": 0.1, "batch": 16}})
    still, moved = job_of(recovery, hook=Stop()), job_of(recovery)
    assert changed(still, train(still)) == set()
    assert changed(moved, train(moved)) == set(moved.plan.upload)


def test_extra_losses_and_changed_logits_reach_the_task_model():
    class Extra(LocalHook):
        def loss(self, model, batch):
            return 10.0 * sum((p**2).sum() for p in model.head.parameters())

    class Shifted(LocalHook):
        def logits(self, logits, labels):
            return logits * 0.0

    plain = job_of(toy_recovery("mask"))
    results = [train(replace(plain, hook=hook)) for hook in (LocalHook(), Extra(), Shifted())]
    assert not states_equal(results[0], results[1])
    assert results[2].stages[-1].loss == pytest.approx(np.log(3), rel=1e-5)


def test_while_a_stage_runs_the_other_groups_take_no_gradients_and_drop_nothing_out():
    stage, local_context, phase, objective, module = toy_stage(4, PHASE)
    other = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout())
    local_context.groups["other"] = other
    flags = []

    def objective_of(_):
        flags.append((module.weight.requires_grad, module.training))
        flags.append((any(p.requires_grad for p in other.parameters()), other[1].training))
        return objective

    run_stage(
        replace(stage, freezes=("other",), objective=objective_of), local_context, phase, LocalHook(), (0, 1, "s")
    )
    assert flags == [(True, True), (False, False)]
    assert not module.weight.requires_grad  # frozen for the stages that follow


# --- ``zero`` whose zeros the fusion does not see, as in the benchmark -----------------------------------------------


CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "fedmultimodal"
UNSEEN = {"name": "zero", "attended": False}
ABSENT = [extractor_group(name) for name in ("features", "steps")]
STEPS = 3
"""Of the toy's 48 samples in batches of 16, as the benchmark's."""


def task_of(config: str, **keys) -> dict:
    """The task stage of one of the benchmark's configs: SGD with momentum, weight decay and clipping."""
    found = load_config(CONFIGS / f"{config}.yaml").local.task
    assert found.batch == 16 and found.epochs == 1 and found.weight_decay == 1e-5
    return {"local": {"task": {**found.model_dump(), **keys}}}


TASK = task_of("uci_har_fedavg")


def moved(request: TrainRequest, group: str, added: Callable[[Tensor, Tensor], Tensor]) -> State:
    """``group`` after the round's steps, whose gradients are ``added`` (to weights and to what they were) alone."""
    start = request.received[group]
    weights = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}
    optimizer = optimizer_for(request.recovery.config.local.task, list(weights.values()))
    for _ in range(STEPS):
        for name, weight in weights.items():
            weight.grad = added(weight.detach(), start[name])
        optimizer.step()
    return {name: weight.detach() for name, weight in weights.items()}


def norm(state: State) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in state.values()]).norm())


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.quick
def test_what_the_site_has_trains_as_under_mask():
    unseen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in (UNSEEN, "mask"))
    for group, state in mask.groups.items():
        for name, tensor in state.items():
            torch.testing.assert_close(unseen.groups[group][name], tensor)


@pytest.mark.quick
@pytest.mark.parametrize("config", ["crisismmd", "meld", "uci_har_fedavg"])
def test_what_it_lacks_shrinks_by_weight_decay_alone_and_is_averaged(config):
    request = job_of(toy_recovery(UNSEEN, **task_of(config)), only("picture"))
    result = train(request)
    assert all(result.counts[group] == 48 and result.real[group] == 0 for group in ABSENT)
    assert set(ABSENT) <= changed(request, result)
    for group in ABSENT:
        assert same(result.groups[group], moved(request, group, lambda weight, start: torch.zeros_like(weight)))
        assert 0.99999 < norm(result.groups[group]) / norm(request.received[group]) < 1


@pytest.mark.quick
def test_without_weight_decay_it_goes_back_as_it_came():
    request = job_of(toy_recovery(UNSEEN, **task_of("meld", weight_decay=0.0)), only("picture"))
    result = train(request)
    assert set(ABSENT) <= set(result.counts) and not set(ABSENT) & changed(request, result)


@pytest.mark.quick
def test_adam_makes_whole_steps_of_weight_decay():
    task = task_of("meld", optimizer="adam", momentum=0.0)
    request = job_of(toy_recovery(UNSEEN, **task), only("picture"))
    result = train(request)
    for group in ABSENT:
        steps = [(request.received[group][name] - tensor).abs().max() for name, tensor in result.groups[group].items()]
        assert float(max(steps)) == pytest.approx(STEPS * task["local"]["task"]["lr"], rel=0.05)


PULL, VARIATE = 10.0, 0.01


@pytest.mark.quick
def test_what_a_strategy_adds_to_the_gradients_moves_it_too():
    """``fedprox`` holds it where it was, against weight decay; ``scaffold`` moves it by the server's variate."""
    request = job_of(toy_recovery(UNSEEN, **TASK), only("picture"))
    plain = train(request)
    pulled = train(replace(request, hook=FedProx.local_half(FedProxParams(mu=PULL))))
    variates = {g: {n: torch.full_like(t, VARIATE) for n, t in request.received[g].items()} for g in ABSENT}
    sent = {strategy_group("scaffold", group): state for group, state in variates.items()}
    corrected = train(replace(request, hook=Scaffold.local_half(ScaffoldParams()), strategy_groups=sent))
    for group in ABSENT:
        assert same(pulled.groups[group], moved(request, group, lambda weight, start: PULL * (weight - start)))
        assert norm(plain.groups[group]) < norm(pulled.groups[group]) < norm(request.received[group])
        assert same(
            corrected.groups[group], moved(request, group, lambda weight, start: torch.full_like(weight, VARIATE))
        )


@pytest.mark.quick
def test_zeros_that_are_seen_change_what_the_site_learns():
    seen, mask = (train(job_of(toy_recovery(name, **TASK), only("picture"))) for name in ("zero", "mask"))
    before, after = mask.groups["task.head"], seen.groups["task.head"]
    assert any(not torch.allclose(tensor, after[name]) for name, tensor in before.items())
