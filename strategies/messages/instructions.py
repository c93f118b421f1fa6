"""What goes to a site beside the groups: what it is to do, and what belongs to the groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.recovery.stage import GlobalInfo
from strategies.messages.value_types import MetricValues


@dataclass(frozen=True)
class Accepted:
    """What the server accepted of all that a site kept beside its replies: the version of ``round`` (0: none yet), but
    of the groups in ``older``, which that round left out of its average, the version of an earlier one."""

    round: int = 0
    older: Mapping[str, int] = field(default_factory=dict)

    def of(self, group: str) -> int:
        """The round whose version of ``group`` counts."""
        return self.older.get(group, self.round)

    @property
    def rounds(self) -> set[int]:
        """The rounds whose versions are needed."""
        return {self.round, *self.older.values()} - {0}


@dataclass(frozen=True)
class TrainInstruction:
    """What every message to a site carries. ``site`` is the site that it is for: in a simulation the nodes only lend
    their hands, and any of them may act for any site. ``config`` is the resolved config as JSON, ``run`` the run
    directory under which a simulated site keeps its state where the run config does not name one, or the run's identity
    under which a site keeps it in its own folder; ``share`` a simulated site's samples and masks (None: it has its
    own), ``training`` those of its training samples beside a ``share`` of another split; ``accepted`` says with which
    version of its state it is to go on."""

    site: str
    config: str
    round: int
    run: str
    share: Share | None = None
    training: Share | None = None
    accepted: Accepted = Accepted()


def write_instruction(instruction: TrainInstruction) -> RecordDict:
    """The records ``run``, ``accepted`` and, for a simulated site, ``assignment`` and perhaps ``training``."""
    run = ConfigRecord(
        {"site": instruction.site, "config": instruction.config, "round": instruction.round, "run": instruction.run}
    )
    older = instruction.accepted.older
    accepted = ConfigRecord({"round": instruction.accepted.round, "groups": [*older], "rounds": [*older.values()]})
    content = RecordDict({"run": run, "accepted": accepted})
    for name, share in (("assignment", instruction.share), ("training", instruction.training)):
        if share is not None:
            samples, present = share.samples.astype(np.int64), share.present.astype(np.uint8)
            content[name] = ArrayRecord({"samples": Array(samples), "present": Array(present)})
    return content


def read_instruction(content: RecordDict) -> TrainInstruction:
    """The order in a message."""
    run = content.config_records["run"]
    words = (str(run["site"]), str(run["config"]), int(run["round"]), str(run["run"]))  # type: ignore[arg-type]
    return TrainInstruction(*words, _share(content, "assignment"), _share(content, "training"), _accepted(content))


def _accepted(content: RecordDict) -> Accepted:
    record: Any = content.config_records["accepted"]
    return Accepted(int(record["round"]), dict(zip(record["groups"], record["rounds"], strict=True)))


def _share(content: RecordDict, name: str) -> Share | None:
    if name not in content:
        return None
    arrays = content.array_records[name]
    return Share(arrays["samples"].numpy(), arrays["present"].numpy().astype(bool))


def addressee(message: Message) -> str:
    """The name of the site that ``message`` is for."""
    return str(message.content.config_records["run"]["site"])


def write_knowledge(content: RecordDict, global_info: GlobalInfo, groups: Iterable[str], used: Iterable[str]) -> None:
    """Add ``trained``, ``quality`` (of ``groups``) and the statistics of the modalities ``used``."""
    names = sorted(groups)
    content["trained"] = MetricRecord({g: global_info.trained.get(g, 0) for g in names})
    content["quality"] = MetricRecord({g: global_info.quality[g] for g in names if g in global_info.quality})
    statistics: MetricValues = {}
    for name in sorted(set(used) & set(global_info.statistics)):
        statistics[f"{name}.mean"] = global_info.statistics[name].mean.tolist()
        statistics[f"{name}.std"] = global_info.statistics[name].std.tolist()
    content["statistics"] = MetricRecord(statistics)


def read_knowledge(content: RecordDict) -> GlobalInfo:
    """The global_info that came with the groups."""
    records = content.metric_records
    values = {name: torch.tensor(row, dtype=torch.float64) for name, row in records["statistics"].items()}
    names = {name.rsplit(".", 1)[0] for name in values}
    return GlobalInfo(
        round=int(content.config_records["run"]["round"]),  # type: ignore[arg-type]
        trained={name: int(count) for name, count in records["trained"].items()},  # type: ignore[arg-type]
        quality={name: float(score) for name, score in records["quality"].items()},  # type: ignore[arg-type]
        statistics={name: Statistics(values[f"{name}.mean"], values[f"{name}.std"]) for name in sorted(names)},
    )


def write_split(content: RecordDict, split: str) -> None:
    """Say which split is to be scored."""
    content["evaluate"] = ConfigRecord({"split": split})


def read_split(content: RecordDict) -> str:
    """The split that is to be scored."""
    return str(content.config_records["evaluate"]["split"])
