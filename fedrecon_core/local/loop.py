"""The local round: receive the groups of the plan, run the recovery's stages, hand back what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrecon_core import seeding
from fedrecon_core.config import Phase
from fedrecon_core.data.site import SiteData
from fedrecon_core.local.hook import LocalHook
from fedrecon_core.local.runner import StageReport, run_stage
from fedrecon_core.recovery.base import Recovery
from fedrecon_core.recovery.stage import Knowledge, Shelf, Stage, Workshop
from fedrecon_core.state import Groups, State, TransferPlan, read_group, write_group


@dataclass(frozen=True)
class LocalJob:
    """One site's part of one round."""

    site: str
    recovery: Recovery
    data: SiteData
    plan: TransferPlan
    received: Mapping[str, State]
    knowledge: Knowledge
    shelf: Shelf
    hook: LocalHook = field(default_factory=LocalHook)


@dataclass(frozen=True)
class LocalResult:
    """What goes back: trained groups, what passed through them, and how the stages went."""

    groups: dict[str, State]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    stages: list[StageReport]


def train_locally(job: LocalJob, modules: Groups) -> LocalResult:
    """Run all stages of ``job`` on ``modules`` (exactly the groups of the plan), starting from the received state.

    Groups through which nothing passed are not handed back: their count would be zero.
    """
    for name, state in job.received.items():
        write_group(modules[name], state)
    workshop = _workshop(job, modules)
    job.hook.begin({name: modules[name] for name in job.plan.upload}, job.shelf.load("hook"))
    reports = [_run(stage, job, workshop) for stage in job.recovery.stages(workshop)]
    counts = {g: n for report in reports for g, n in report.counts.items() if g in job.plan.upload and n > 0}
    real = {g: n for report in reports for g, n in report.real.items() if g in counts}
    groups = {name: read_group(modules[name]) for name in sorted(counts)}
    extra = _close(job, reports)
    counts.update({group: len(job.data) for group in extra})
    return LocalResult({**groups, **extra}, counts, real, workshop.quality, reports)


def _workshop(job: LocalJob, modules: Groups) -> Workshop:
    seed = job.recovery.config.seed
    return Workshop(
        groups=modules,
        data=job.data,
        knowledge=job.knowledge,
        stream=lambda purpose: seeding.torch_stream(seed, purpose, job.site),
        received=job.recovery.freeze(modules, job.plan, job.knowledge, job.shelf),
        logits_hook=job.hook.logits,
        extra_loss=job.hook.loss,
    )


def _run(stage: Stage, job: LocalJob, workshop: Workshop) -> StageReport:
    config = job.recovery.config
    phase: Phase = getattr(config.local, stage.phase)
    return run_stage(stage, workshop, phase, job.hook, (config.seed, job.knowledge.round, job.site))


def _close(job: LocalJob, reports: list[StageReport]) -> dict[str, State]:
    """Let the strategy's local half finish; keep its state at the site and return the groups that it adds."""
    mine = [report for report in reports if report.phase in job.hook.phases]
    lr = getattr(job.recovery.config.local, mine[-1].phase).lr if mine else 0.0
    extra, state = job.hook.end(sum(report.steps for report in mine), lr)
    if state:
        job.shelf.save("hook", state)
    return extra
