"""The local round: load the received groups, run the recovery's stages, return the trained groups."""

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
    """Input of one site's local round. ``received`` are the groups of the plan, ``strategy_groups`` the additional ones
    that the strategy's server half sent."""

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
    """Result of a local round: the uploaded groups with their ``counts`` and ``real`` counts, the mappings' scores, and
    reports of the stages. ``kept``: whether the strategy's local half saved state at the site."""

    groups: dict[str, State]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    stages: list[StageReport]
    kept: bool = False


def train_locally(request: TrainRequest, modules: Groups) -> TrainResult:
    """Run all stages on ``modules`` (exactly the groups of the plan), starting from the received state.

    Groups that no sample passed through are not uploaded; the strategy's local half may exclude others. A strategy's
    own group counts all of the site's samples; its real count is that of the model's group that it belongs to.

    Raises ``RunError`` if two stages train the same group.
    """
    recovery, hook, seed = request.recovery, request.hook, request.recovery.config.seed
    for name, state in request.received.items():
        write_group(modules[name], state)
    context = LocalContext(
        groups=modules,
        data=request.data,
        global_info=request.global_info,
        stream=lambda purpose: seeding.torch_stream(seed, purpose, request.site),
        received=recovery.freeze(modules, request.plan, request.global_info, request.store),
        logits_hook=hook.logits,
        extra_loss=hook.loss,
        recover=recovery.recover_locally,
    )
    hook.begin(context, HookState(request.store.load_accepted("hook"), request.strategy_groups))
    stages = recovery.stages(context)
    _check_one_stage_per_group(stages)
    reports, stage_stats = [], {}
    for stage in stages:
        phase: Phase = getattr(recovery.config.local, stage.phase).in_round(request.global_info.round)
        report = run_stage(stage, context, phase, hook, (seed, request.global_info.round, request.site))
        reports.append(report)
        stage_stats.update(dict.fromkeys(stage.trains, StageStats(report.steps, phase.lr, phase.momentum)))
    trained = {g: n for report in reports for g, n in report.counts.items() if g in request.plan.upload and n > 0}
    counts = {group: trained[group] for group in hook.select_uploads(sorted(trained))}
    real = {g: n for report in reports for g, n in report.real.items() if g in counts}
    quality = {g: score for g, score in context.quality.items() if g in counts}
    groups = {name: read_group(modules[name]) for name in sorted(counts)}
    own, kept = hook.end({g: stats for g, stats in stage_stats.items() if g in counts})
    if kept:
        request.store.save("hook", kept)
    real.update({group: real[model_group(group)] for group in own if model_group(group) in real})
    counts.update({group: len(request.data) for group in own})
    return TrainResult({**groups, **own}, counts, real, quality, reports, bool(kept))


def _check_one_stage_per_group(stages: list[Stage]) -> None:
    """Raise ``RunError`` if two stages train one group: counts and control variates assume a single stage."""
    first: dict[str, str] = {}
    for stage in stages:
        for group in stage.trains:
            if group in first:
                fault = f"expected one stage that trains it, found {first[group]} and {stage.name}"
                raise RunError(f"stages of the recovery: {group}: {fault}; merge these stages, or split the group")
            first[group] = stage.name
