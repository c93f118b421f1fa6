"""The server's knowledge of the federation during a run: sites, transfer plans, training counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fedrecon_core import seeding
from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.state import TransferPlan
from fedrecon_core.types import DatasetSpec
from strategies.messages import Accepted, SiteInfo, TrainInstruction, TrainReply


def share_of(share: float, count: int) -> int:
    """``share`` of ``count``, rounded down but at least 1. Float errors do not matter: 0.29 of 100 is 29."""
    return max(1, int(share * count + 1e-9))


@dataclass
class Federation:
    """The sites of a run, by name. ``nodes`` maps them to Flower's current node ids; in a simulation several sites may
    share a node.

    ``sites`` and ``plans`` keep sites that have left, since they may come back. ``shares`` and ``held_out`` are the
    samples that the server assigns in a simulation; ``held_out_plans`` are the plans for evaluation, per split.
    ``trained``: group -> number of samples on which it was trained so far. ``quality``: mapping -> score. ``accepted``:
    site -> the version of its stored state from which it continues."""

    config: RunConfig
    spec: DatasetSpec
    run: str
    sites: dict[str, SiteInfo]
    nodes: dict[str, int]
    plans: dict[str, TransferPlan]
    shares: dict[str, Share] = field(default_factory=dict)
    held_out: dict[str, dict[str, Share]] = field(default_factory=dict)
    held_out_plans: dict[str, dict[str, TransferPlan]] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    config_json: str = ""

    def __post_init__(self) -> None:
        """Serialize the config once for all messages, without the server's trackers."""
        self.config_json = self.config_json or self.config.model_dump_json(exclude={"tracking"})

    def instruction(self, name: str, round_: int, split: str = "train") -> TrainInstruction:
        """The instruction for the site ``name`` in round ``round_``, over its samples of ``split``."""
        shares = self.shares if split == "train" else self.held_out.get(split, {})
        instruction = TrainInstruction(name, self.config_json, round_, self.run, shares.get(name))
        return replace(instruction, accepted=self.accepted.get(name, instruction.accepted))

    def accept(self, round_: int, replies: Mapping[str, TrainReply], left_out: Set[str]) -> None:
        """Record that the averages of ``round_`` include ``replies`` (by site), except for the groups ``left_out``:
        sites with a stored state continue from the version of that reply."""
        for name, reply in replies.items():
            if reply.kept:
                before = self.accepted.get(name, Accepted())
                older = {group: before.of(group) for group in sorted(left_out & set(reply.counts))}
                self.accepted[name] = Accepted(round_, older)

    def plan(self, name: str, split: str = "train") -> TransferPlan:
        """The groups that the site needs for training, or for evaluation on ``split``."""
        return self.plans[name] if split == "train" else self.held_out_plans[split][name]

    def global_info(self, round_: int) -> GlobalInfo:
        """The global info that accompanies the groups in round ``round_``."""
        return GlobalInfo(round_, dict(self.trained), dict(self.quality), dict(self.statistics))

    @contextmanager
    def as_of(self, global_info: GlobalInfo) -> Iterator[None]:
        """Within the block, send ``global_info``, which belongs to the groups of an earlier round, in messages."""
        now = self.trained, self.quality
        self.trained, self.quality = dict(global_info.trained), dict(global_info.quality)
        try:
            yield
        finally:
            self.trained, self.quality = now

    def holders(self, split: str = "train") -> list[str]:
        """The connected sites with samples of ``split``, sorted by name."""
        return sorted(name for name in self.nodes if self.samples(name, split))

    def samples(self, name: str, split: str = "train") -> int:
        """The number of the site's samples of ``split``."""
        site, share = self.sites[name], self.held_out.get(split, {}).get(name)
        if split == "train":
            return site.samples
        if site.own is not None:
            return site.own.holdings[split].samples
        return 0 if share is None else len(share.samples)

    def sample(self, round_: int, split: str, fraction: float) -> list[str]:
        """Draw ``share_of`` the sites with samples, by name since node ids are random; sorted."""
        names = self.holders(split)
        wanted = share_of(fraction, len(names))
        stream = seeding.numpy_stream(self.config.seed, "sampling", split, round_)
        return sorted(stream.choice(names, size=wanted, replace=False).tolist()) if wanted < len(names) else names
