"""Messages to a site: the instruction, and the global info that accompanies the groups."""

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

DESCRIBE, LOCAL, SITE = "describe", "local", "site"
DESCRIBE_TYPE, LOCAL_TYPE, SITE_TYPE = f"query.{DESCRIBE}", f"train.{LOCAL}", f"evaluate.{SITE}"
"""The three kinds of messages, and the message types under which Flower delivers them."""

MetricValues = dict[str, int | float | list[int] | list[float]]
"""The content of a MetricRecord."""


@dataclass(frozen=True)
class Accepted:
    """The version of its stored state from which a site continues: that of ``round``, the last one whose reply the
    server accepted (0: none yet). For the groups in ``older`` it is that of an earlier round, since the average of
    ``round`` left them out."""

    round: int = 0
    older: Mapping[str, int] = field(default_factory=dict)

    def of(self, group: str) -> int:
        """The round of the version of ``group`` to continue from."""
        return self.older.get(group, self.round)

    @property
    def rounds(self) -> set[int]:
        """The rounds whose versions are needed."""
        return {self.round, *self.older.values()} - {0}


@dataclass(frozen=True)
class TrainInstruction:
    """The common part of all messages to a site.

    ``site``: the name of the site; in a simulation any node may run any site. ``config``: the resolved config as JSON.
    ``run``: for a simulated site the run directory in which it stores its state, if the run config names none; for a
    deployed site the run's identity, the name of the folder of its state. ``share``: a simulated site's samples and
    masks (None: it has its own data); ``training``: its training samples, if ``share`` is of another split.
    ``accepted``: the version of its state to continue from.
    """

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
    """The instruction in a message."""
    run: Any = content.config_records["run"]
    accepted: Any = content.config_records["accepted"]
    shares: dict[str, Share] = {}
    for name in ("assignment", "training"):
        if name in content:
            arrays = content.array_records[name]
            shares[name] = Share(arrays["samples"].numpy(), arrays["present"].numpy().astype(bool))
    return TrainInstruction(
        site=str(run["site"]),
        config=str(run["config"]),
        round=int(run["round"]),
        run=str(run["run"]),
        share=shares.get("assignment"),
        training=shares.get("training"),
        accepted=Accepted(int(accepted["round"]), dict(zip(accepted["groups"], accepted["rounds"], strict=True))),
    )


def addressee(message: Message) -> str:
    """The name of the site that ``message`` is for."""
    return str(message.content.config_records["run"]["site"])


def write_global_info(content: RecordDict, global_info: GlobalInfo, groups: Iterable[str], used: Iterable[str]) -> None:
    """Add ``trained`` and ``quality`` of ``groups``, and the statistics of the modalities ``used``."""
    names = sorted(groups)
    content["trained"] = MetricRecord({g: global_info.trained.get(g, 0) for g in names})
    content["quality"] = MetricRecord({g: global_info.quality[g] for g in names if g in global_info.quality})
    statistics: MetricValues = {}
    for name in sorted(set(used) & set(global_info.statistics)):
        statistics[f"{name}.mean"] = global_info.statistics[name].mean.tolist()
        statistics[f"{name}.std"] = global_info.statistics[name].std.tolist()
    content["statistics"] = MetricRecord(statistics)


def read_global_info(content: RecordDict) -> GlobalInfo:
    """The global info in a message."""
    records: Any = content.metric_records
    run: Any = content.config_records["run"]
    values = {name: torch.tensor(row, dtype=torch.float64) for name, row in records["statistics"].items()}
    names = {name.rsplit(".", 1)[0] for name in values}
    return GlobalInfo(
        round=int(run["round"]),
        trained={name: int(count) for name, count in records["trained"].items()},
        quality={name: float(score) for name, score in records["quality"].items()},
        statistics={name: Statistics(values[f"{name}.mean"], values[f"{name}.std"]) for name in sorted(names)},
    )


def write_split(content: RecordDict, split: str) -> None:
    """Name the split to be scored."""
    content["evaluate"] = ConfigRecord({"split": split})


def read_split(content: RecordDict) -> str:
    """The split to be scored."""
    return str(content.config_records["evaluate"]["split"])
