"""The local round: receive the groups of the plan, run the recovery's stages, hand back what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrecon_core import seeding
from fedrecon_core.config import Phase
from fedrecon_core.data.site_data import SiteData
from fedrecon_core.errors import RunError
from fedrecon_core.local.hook import LocalHook, Memory, StageStats
from fedrecon_core.local.stage_runner import StageReport, run_stage
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext, SiteStore, Stage
from fedrecon_core.state import Groups, State, TransferPlan, accompanied, read_group, write_group


@dataclass(frozen=True)
class LocalJob:
    """One site's part of one round. ``received`` are the groups of the plan, ``beside`` those of the strategy's own."""

    site: str
    recovery: Recovery
    data: SiteData
    plan: TransferPlan
    received: Mapping[str, State]
    global_info: GlobalInfo
    store: SiteStore
    hook: LocalHook = field(default_factory=LocalHook)
    beside: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalResult:
    """What goes back: trained groups, what passed through them, and how the stages went. ``kept``: whether the
    strategy's local half keeps anything at the site beside this result."""

    groups: dict[str, State]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    stages: list[StageReport]
    kept: bool = False


def train_locally(job: LocalJob, modules: Groups) -> LocalResult:
    """Run all stages of ``job`` on ``modules`` (exactly the groups of the plan), starting from the received state.

    Groups through which nothing passed are not handed back: their count would be zero. The strategy's local half may
    hold back others. A group of its own has been through all of the site's samples, and saw something real where the
    group that it accompanies did.

    ``RunError`` where two stages train the same group.
    """
    for name, state in job.received.items():
        write_group(modules[name], state)
    context = _workshop(job, modules)
    job.hook.begin(context, Memory(job.store.load_accepted("hook"), job.beside))
    stages = job.recovery.stages(context)
    _refuse_twice(stages)
    reports = [_run(stage, job, context) for stage in stages]
    trained = {g: n for report in reports for g, n in report.counts.items() if g in job.plan.upload and n > 0}
    counts = {group: trained[group] for group in job.hook.chosen(sorted(trained))}
    real = {g: n for report in reports for g, n in report.real.items() if g in counts}
    quality = {g: score for g, score in context.quality.items() if g in counts}
    groups = {name: read_group(modules[name]) for name in sorted(counts)}
    beside, kept = job.hook.end({g: stats for g, stats in _stage_stats(stages, reports, job).items() if g in counts})
    if kept:
        job.store.save("hook", kept)
    real.update({group: real[accompanied(group)] for group in beside if accompanied(group) in real})
    counts.update({group: len(job.data) for group in beside})
    return LocalResult({**groups, **beside}, counts, real, quality, reports, bool(kept))


def _workshop(job: LocalJob, modules: Groups) -> LocalContext:
    seed = job.recovery.config.seed
    return LocalContext(
        groups=modules,
        data=job.data,
        global_info=job.global_info,
        stream=lambda purpose: seeding.torch_stream(seed, purpose, job.site),
        received=job.recovery.freeze(modules, job.plan, job.global_info, job.store),
        logits_hook=job.hook.logits,
        extra_loss=job.hook.loss,
        recover=job.recovery.recover_locally,
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


def _run(stage: Stage, job: LocalJob, context: LocalContext) -> StageReport:
    keys = (job.recovery.config.seed, job.global_info.round, job.site)
    return run_stage(stage, context, _phase(stage, job), job.hook, keys)


def _phase(stage: Stage, job: LocalJob) -> Phase:
    phase: Phase = getattr(job.recovery.config.local, stage.phase)
    return phase.in_round(job.global_info.round)


def _stage_stats(stages: list[Stage], reports: list[StageReport], job: LocalJob) -> dict[str, StageStats]:
    """Group -> how the stage that trains it went."""
    stage_stats = {}
    for stage, report in zip(stages, reports, strict=True):
        phase = _phase(stage, job)
        stage_stats.update(dict.fromkeys(stage.trains, StageStats(report.steps, phase.lr, phase.momentum)))
    return stage_stats
