"""The local round: receive the groups of the plan, run the recovery's stages, hand back what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrecon_core import seeding
from fedrecon_core.config import Phase
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.errors import RunError
from fedrecon_core.local.hook import HookState, LocalHook, StageStats
from fedrecon_core.local.stage_runner import StageReport, run_stage
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, SiteStore, Stage
from fedrecon_core.state import Groups, State, TransferPlan, model_group, read_group, write_group


@dataclass(frozen=True)
class TrainRequest:
    """One site's part of one round. ``received`` are the groups of the plan, ``beside`` those of the strategy's own."""

    site: str
    recovery: Recovery
    data: SiteData
    plan: TransferPlan
    received: Mapping[str, State]
    global_info: GlobalInfo
    store: SiteStore
    hook: LocalHook = field(default_factory=LocalHook)
    strategy_groups: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """What goes back: trained groups, what passed through them, and how the stages went. ``kept``: whether the
    strategy's local half keeps anything at the site beside this result."""

    groups: dict[str, State]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    stages: list[StageReport]
    kept: bool = False


def train_locally(request: TrainRequest, modules: Groups) -> TrainResult:
    """Run all stages of ``request`` on ``modules`` (exactly the groups of the plan), starting from the received state.

    Groups through which nothing passed are not handed back: their count would be zero. The strategy's local half may
    hold back others. A group of its own has been through all of the site's samples, and saw something real where the
    group that it accompanies did.

    ``RunError`` where two stages train the same group.
    """
    for name, state in request.received.items():
        write_group(modules[name], state)
    context = _workshop(request, modules)
    request.hook.begin(context, HookState(request.store.load_accepted("hook"), request.strategy_groups))
    stages = request.recovery.stages(context)
    _refuse_twice(stages)
    reports = [_run(stage, request, context) for stage in stages]
    trained = {g: n for report in reports for g, n in report.counts.items() if g in request.plan.upload and n > 0}
    counts = {group: trained[group] for group in request.hook.chosen(sorted(trained))}
    real = {g: n for report in reports for g, n in report.real.items() if g in counts}
    quality = {g: score for g, score in context.quality.items() if g in counts}
    groups = {name: read_group(modules[name]) for name in sorted(counts)}
    beside, kept = request.hook.end(
        {g: stats for g, stats in _stage_stats(stages, reports, request).items() if g in counts}
    )
    if kept:
        request.store.save("hook", kept)
    real.update({group: real[model_group(group)] for group in beside if model_group(group) in real})
    counts.update({group: len(request.data) for group in beside})
    return TrainResult({**groups, **beside}, counts, real, quality, reports, bool(kept))


def _workshop(request: TrainRequest, modules: Groups) -> LocalContext:
    seed = request.recovery.config.seed
    return LocalContext(
        groups=modules,
        data=request.data,
        global_info=request.global_info,
        stream=lambda purpose: seeding.torch_stream(seed, purpose, request.site),
        received=request.recovery.freeze(modules, request.plan, request.global_info, request.store),
        logits_hook=request.hook.logits,
        extra_loss=request.hook.loss,
        recover=request.recovery.recover_locally,
    )


def _refuse_twice(stages: list[Stage]) -> None:
    """A group's counts, and the stats at which a control variate is read off its steps, are those of one stage."""
    first: dict[str, str] = {}
    for stage in stages:
        for group in stage.trains:
            if group in first:
                told = f"expected one stage that trains it, found {first[group]} and {stage.name}"
                raise RunError(f"stages of the recovery: {group}: {told}; make them one, or split the group")
            first[group] = stage.name


def _run(stage: Stage, request: TrainRequest, context: LocalContext) -> StageReport:
    keys = (request.recovery.config.seed, request.global_info.round, request.site)
    return run_stage(stage, context, _phase(stage, request), request.hook, keys)


def _phase(stage: Stage, request: TrainRequest) -> Phase:
    phase: Phase = getattr(request.recovery.config.local, stage.phase)
    return phase.in_round(request.global_info.round)


def _stage_stats(stages: list[Stage], reports: list[StageReport], request: TrainRequest) -> dict[str, StageStats]:
    """Group -> how the stage that trains it went."""
    stage_stats = {}
    for stage, report in zip(stages, reports, strict=True):
        phase = _phase(stage, request)
        stage_stats.update(dict.fromkeys(stage.trains, StageStats(report.steps, phase.lr, phase.momentum)))
    return stage_stats
