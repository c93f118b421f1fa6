"""``scaffold``: control variates correct each site's steps towards the gradients of all sites (Karimireddy et al. 2020,
Algorithm 1, Option II)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal

import torch
from flwr.app import Message
from pydantic import Field
from torch import Tensor, nn

from fedrecon_core.config import GroupSelection
from fedrecon_core.config.errors import InvalidValueError
from fedrecon_core.local.hook import HookState, LocalHook, StageStats
from fedrecon_core.recovery.stage import PHASES, LocalContext
from fedrecon_core.registry import STRATEGIES
from fedrecon_core.state import State, read_group, strategy_group
from strategies.averages import weighted_mean
from strategies.fedavg import FedAvg, FedAvgParams
from strategies.federation import Federation
from strategies.messages import TrainReply

OF_ANY_PHASE = "recovery."
"""Prefix of the names of a recovery's own groups, which it may train in any phase."""


class ScaffoldParams(GroupSelection, FedAvgParams):
    """Every site stores a control variate c_i and the server their mean c, one per group. A site steps along
    g - c_i + c instead of its gradient g; the server moves the model by ``lr`` times the sites' average update.

    After ``steps`` steps from w0 to w1, the new c_i of a site is c_i - c + (w0 - w1) / a, where a is the sum of the
    weights of the gradients in w0 - w1. With the momentum m of the stage the weight of a gradient is
    1 + m + m^2 + ... up to the last step, and their sum ``lr_site`` * (steps - m (1 - m^steps) / (1 - m)) / (1 - m).
    With ``variate: mean`` that is a, so that c_i is a mean of the site's gradients. With ``plain`` a is ``lr_site`` *
    ``steps`` for any momentum, as in the FedMultimodal benchmark. Without momentum both are the paper's Option II;
    with momentum the variates of ``plain`` are too large by the quotient of the two, and if that is above 2 (momentum
    0.9: from four steps on) the error changes its sign and grows in each round.

    The objective is the mean of the sites' losses: each site counts the same or, with ``weighting: samples``, in
    proportion to its samples; c is weighted like the model. ``groups`` are name prefixes of the groups
    that are corrected, in all stages that train them, which must use SGD; all others are plain averages.

    c - c_i is added before the gradient is clipped (``local.<phase>.clip``), so that the corrected gradient is clipped;
    the benchmark's optimizer clips the site's own gradient and adds it afterwards.
    """

    name: str = "scaffold"
    lr: float = Field(default=1.0, gt=0)
    variate: Literal["mean", "plain"] = "mean"

    def check_run(self, run: Any) -> None:
        """Raise ``InvalidValueError`` if a stage that trains one of ``groups`` uses another optimizer than SGD."""
        for phase in PHASES:
            found, names = getattr(run.local, phase).optimizer, (f"{phase}.", OF_ANY_PHASE)
            pairs = product(self.groups, names)
            trained = any(name.startswith(prefix) or prefix.startswith(name) for prefix, name in pairs)
            if found != "sgd" and trained:
                todo = f"set local.{phase}.optimizer: sgd, with a learning rate for it"
                expected = "expected sgd with scaffold, which computes a site's mean gradient from its steps"
                raise InvalidValueError(f"local.{phase}.optimizer", f"{expected}, found {found}; {todo}")


def variate_group(group: str) -> str:
    """The name of the control variate of ``group`` in messages."""
    return strategy_group("scaffold", group)


def gradients_in(stats: StageStats) -> float:
    """The sum of the weights of the gradients in the steps of SGD with a momentum that starts at zero: the k-th of K
    gradients has the weight (1 - m^(K - k + 1)) / (1 - m). Without momentum the sum is the number of steps."""
    m, steps = stats.momentum, stats.steps
    return (steps - m * (1 - m**steps) / (1 - m)) / (1 - m)


class Correction(LocalHook):
    """Adds c - c_i to the gradients of the groups whose c was received, and stores c_i at the site.

    A parameter without a gradient in a batch is corrected like the others, as if it had the gradient zero: otherwise
    its c_i would drift away from its gradients by c in every round.
    """

    _modules: Mapping[str, nn.Module]
    _kept: Mapping[str, State]

    def __init__(self, variate: str) -> None:
        self.variate = variate
        self._start: dict[str, State] = {}
        self._change: dict[str, State] = {}
        self._corrections: dict[str, Tensor] = {}

    def begin(self, context: LocalContext, memory: HookState) -> None:
        """Store the received parameters, and compute the round's corrections."""
        self._modules, self._kept = context.groups, memory.kept
        sent = {group: memory.received.get(variate_group(group)) for group in sorted(context.groups)}
        self._change = {g: _minus(c, memory.kept.get(g)) for g, c in sent.items() if c is not None}
        self._start = {group: read_group(context.groups[group]) for group in self._change}
        self._corrections = {
            f"{group}/{name}": change[name].to(device=parameter.device, dtype=parameter.dtype)
            for group, change in self._change.items()
            for name, parameter in context.groups[group].named_parameters()
        }

    @torch.no_grad()
    def gradients(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Add the corrections."""
        gradients: list[Tensor] = []
        corrections: list[Tensor] = []
        for name, parameter in parameters:
            correction = self._corrections.get(name)
            if correction is not None and parameter.grad is not None:
                gradients.append(parameter.grad)
                corrections.append(correction)
            elif correction is not None:
                parameter.grad = correction.clone()
        if gradients:
            torch._foreach_add_(gradients, corrections)

    def end(self, stage_stats: Mapping[str, StageStats]) -> tuple[dict[str, State], dict[str, State]]:
        """Upload c + (new c_i - c_i) = (w0 - w1) / a, which would be the new c if this were the only site. A group
        keeps its c_i if it was not trained or has diverged."""
        uploads, kept = {}, dict(self._kept)
        for group, stats in stage_stats.items():
            if group in self._change:
                weight = stats.lr * (stats.steps if self.variate == "plain" else gradients_in(stats))
                before, after = self._start[group], read_group(self._modules[group])
                alone = {n: (before[n].double() - after[n].double()) / weight for n in self._change[group]}
                uploads[variate_group(group)] = _like(alone, before)
                own = _like(_minus(alone, self._change[group]), before)
                if all(bool(tensor.isfinite().all()) for tensor in own.values()):
                    kept[group] = own
        return uploads, kept


def _minus(left: Mapping[str, Tensor], right: Mapping[str, Tensor] | None) -> State:
    """left - right in float64; without ``right``, left."""
    return {name: t.double() - (0.0 if right is None else right[name].double()) for name, t in left.items()}


def _like(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> State:
    return {name: tensor.to(other[name].dtype) for name, tensor in state.items()}


@STRATEGIES.register("scaffold")
class Scaffold(FedAvg):
    """Stores the sum of the sites' control variates of each group, in float64: c is their mean over the N sites with
    the group, and N grows when a site joins. A group that no site returned keeps its c.

    c and the c_i stay consistent, since a site continues from the c_i that it stored with its last accepted reply,
    group by group: a reply that is lost or rejected, or a group that too few sites sent for a robust average, changes
    neither. A site that has lost its c_i cannot start over with zero, since they are part of the sums:
    ``client.site_store`` raises ``DataError``."""

    Params = ScaffoldParams

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        self._sums: dict[str, State] = {}
        self._sent: dict[str, State] = {}
        """Group -> c, as this round sends it, computed once for all sites."""

    @staticmethod
    def local_half(params: Any) -> LocalHook:
        """The correction of the gradients."""
        return Correction(params.variate)

    def train_messages(self, round_: int, groups: Mapping[str, State]) -> list[Message]:
        """As in ``fedavg``, with c of each corrected group."""
        self._sent = {}
        return super().train_messages(round_, groups)

    def strategy_groups(self, groups: Iterable[str]) -> dict[str, State]:
        """c of each of ``groups`` that is corrected: the sum of the c_i divided by N, in the dtypes of the group; zero
        before the first reply. N counts the sites that have training samples and may upload the group, each with its
        weight."""
        federation = self.federation
        chosen = [group for group in groups if group.startswith(self.params.groups)]
        for group in chosen:
            if group in self._sent:
                continue
            model = self._current[group]
            if group not in self._sums:
                self._sent[group] = {name: torch.zeros_like(tensor) for name, tensor in model.items()}
                continue
            samples = [federation.samples(name) for name, plan in federation.plans.items() if group in plan.upload]
            total = max(1.0, sum(self._weight(count) for count in samples if count))
            self._sent[group] = _like({name: tensor / total for name, tensor in self._sums[group].items()}, model)
        return {variate_group(group): self._sent[group] for group in chosen}

    def _weight(self, samples: int) -> float:
        return 1.0 if self.params.weighting == "uniform" else float(samples)

    def average(self, group: str, holders: Sequence[TrainReply]) -> State:
        """As in ``fedavg``; updates c of the group, too.

        c+ = c + S/N (mean - c), with the mean over S sites of the c that each uploaded; for the sums, this is
        N c+ = N c + S (mean - c).
        """
        name, robust = variate_group(group), self._robust(group)
        replies = [reply for reply in holders if name in reply.groups]
        if robust is not None and len(replies) < robust.least:
            self.left_out.add(group)
        if replies and group not in self.left_out:
            weights = [self._weight(reply.counts[name]) for reply in replies]
            uploads = [_minus(reply.groups[name], None) for reply in replies]
            mean = weighted_mean(uploads, weights) if robust is None else robust.average(uploads)
            moved = _minus(mean, self.strategy_groups([group])[name])
            before = self._sums.get(group)
            self._sums[group] = {
                key: sum(weights) * change + (0.0 if before is None else before[key]) for key, change in moved.items()
            }
            del self._sent[group]
        return super().average(group, holders)

    def server_step(self, group: str, old: State, average: State) -> State:
        """x + lr (mean - x)."""
        if not group.startswith(self.params.groups):
            return average
        return {name: torch.lerp(tensor, average[name], self.params.lr) for name, tensor in old.items()}

    def state(self) -> dict[str, State]:
        """Group -> sum of the sites' control variates, for every group that was returned."""
        return dict(self._sums)

    def load_state(self, state: Mapping[str, State]) -> None:
        """Restore the sums."""
        self._sums, self._sent = {group: dict(tensors) for group, tensors in state.items()}, {}
