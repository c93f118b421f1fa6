"""The records of every message between server and sites. This is the only place that names them.

query ``describe``: who a site is; train ``local``: one local round; evaluate ``site``: scores at a site. A parameter
group travels as one ArrayRecord under its own name (which always holds a dot, so it never meets a record name), with
its tensors bundled into one array.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics, Sums
from fedrecon_core.local.evaluate import Score
from fedrecon_core.local.loop import LocalResult
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import dense, sparse
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import State
from fedrecon_core.task.target import target_of
from fedrecon_core.types import DatasetSpec

MetricValues = dict[str, int | float | list[int] | list[float]]
"""What a MetricRecord may hold."""

DESCRIBE, LOCAL, SITE = "describe", "local", "site"
DESCRIBE_TYPE, LOCAL_TYPE, SITE_TYPE = f"query.{DESCRIBE}", f"train.{LOCAL}", f"evaluate.{SITE}"


@dataclass(frozen=True)
class Order:
    """What every message to a site carries. ``site`` is the site that it is for: in a simulation the nodes only lend
    their hands, and any of them may act for any site. ``config`` is the resolved config as JSON, ``run`` the run
    directory under which a simulated site keeps its state where the run config does not name one, or the run's identity
    under which a site keeps it in its own folder; ``share`` a simulated site's samples and masks (None: it has its
    own)."""

    site: str
    config: str
    round: int
    run: str
    share: Share | None = None


@dataclass(frozen=True)
class Holding:
    """What a site holds of one split: how many samples, and how many of them have each modality."""

    samples: int
    present: dict[str, int]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that some sample has, in the spec's order."""
        return tuple(name for name, count in self.present.items() if count)


@dataclass(frozen=True)
class OwnData:
    """What a site says of data that only it can see: the specification as JSON, a SHA-256 that changes with any file of
    its folder, and split -> holding."""

    spec: str
    data_hash: str
    holdings: dict[str, Holding]


@dataclass(frozen=True)
class SiteInfo:
    """A site's answer to ``describe``. ``samples`` counts its training samples, ``sums`` are the statistics over its
    present training rows; ``own`` is None where the server dealt out the data."""

    name: str
    code_hash: str
    spec_hash: str
    modalities: tuple[str, ...]
    samples: int
    sums: dict[str, Sums]
    own: OwnData | None = None

    @property
    def identity(self) -> Identity:
        """The hashes of what it works with."""
        return Identity(self.code_hash, self.spec_hash, self.own.data_hash if self.own else "")


@dataclass(frozen=True)
class Identity:
    """The hashes of what a site works with; they travel with every train reply, so that a change in the middle of a run
    is seen. ``data_hash`` is empty where the server dealt out the data."""

    code_hash: str
    spec_hash: str
    data_hash: str = ""


@dataclass(frozen=True)
class TrainReply:
    """A site's answer to ``local``: trained groups as they came, and numbers beside them."""

    groups: dict[str, ArrayRecord]
    counts: dict[str, int]
    real: dict[str, int]
    quality: dict[str, float]
    metrics: dict[str, float]
    seconds: dict[str, float]
    samples: int


# --- to a site -----------------------------------------------------------------------------------------------------


def write_order(order: Order) -> RecordDict:
    """The records ``run`` and, for a simulated site, ``assignment``."""
    run = ConfigRecord({"site": order.site, "config": order.config, "round": order.round, "run": order.run})
    content = RecordDict({"run": run})
    if order.share is not None:
        samples, present = order.share.samples.astype(np.int64), order.share.present.astype(np.uint8)
        content["assignment"] = ArrayRecord({"samples": Array(samples), "present": Array(present)})
    return content


def read_order(content: RecordDict) -> Order:
    """The order in a message."""
    run = content.config_records["run"]
    share = None
    if "assignment" in content:
        arrays = content.array_records["assignment"]
        share = Share(arrays["samples"].numpy(), arrays["present"].numpy().astype(bool))
    return Order(str(run["site"]), str(run["config"]), int(run["round"]), str(run["run"]), share)  # type: ignore[arg-type]


def addressee(message: Message) -> str:
    """The name of the site that ``message`` is for."""
    return str(message.content.config_records["run"]["site"])


def write_knowledge(content: RecordDict, knowledge: Knowledge, groups: Iterable[str], used: Iterable[str]) -> None:
    """Add ``trained``, ``quality`` (of ``groups``) and the statistics of the modalities ``used``."""
    names = sorted(groups)
    content["trained"] = MetricRecord({g: knowledge.trained.get(g, 0) for g in names})
    content["quality"] = MetricRecord({g: knowledge.quality[g] for g in names if g in knowledge.quality})
    statistics: MetricValues = {}
    for name in sorted(set(used) & set(knowledge.statistics)):
        statistics[f"{name}.mean"] = knowledge.statistics[name].mean.tolist()
        statistics[f"{name}.std"] = knowledge.statistics[name].std.tolist()
    content["statistics"] = MetricRecord(statistics)


def read_knowledge(content: RecordDict) -> Knowledge:
    """The knowledge that came with the groups."""
    records = content.metric_records
    values = {name: torch.tensor(row, dtype=torch.float64) for name, row in records["statistics"].items()}
    names = {name.rsplit(".", 1)[0] for name in values}
    return Knowledge(
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


# --- groups --------------------------------------------------------------------------------------------------------


def pack_group(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """A group's tensors as a record."""
    return ArrayRecord({name: Array(tensor.detach().cpu().contiguous().numpy()) for name, tensor in state.items()})


def unpack_group(record: ArrayRecord) -> State:
    """A record's arrays as tensors of their own."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def bundle(group: ArrayRecord) -> ArrayRecord:
    """The same group as one array, whose name tells how to take it apart. A SuperLink stores and sends every array on
    its own, at 10 to 20 ms each with a database: a message of 80 small arrays takes seconds, one of 13 does not."""
    layout = [[name, array.dtype, list(array.shape)] for name, array in group.items()]
    flat = [np.ascontiguousarray(array.numpy()).reshape(-1).view(np.uint8) for array in group.values()]
    return ArrayRecord({json.dumps(layout): Array(np.concatenate(flat) if flat else np.zeros(0, dtype=np.uint8))})


def unbundle(record: ArrayRecord) -> ArrayRecord:
    """The group in a bundle. Raises ``ValueError`` where name and bytes do not fit each other."""
    if len(record) != 1:
        raise ValueError(f"expected one array per group, found {len(record)}")
    [(name, array)] = record.items()
    group, content, start = ArrayRecord(), array.numpy(), 0
    for tensor, dtype, shape in json.loads(name):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        group[tensor] = Array(content[start : start + size].view(dtype).reshape(shape))
        start += size
    if start != len(content):
        raise ValueError(f"expected {start} bytes as the layout says, found {len(content)}")
    return group


def is_group(name: str) -> bool:
    """Whether a record's name is a parameter group's."""
    return "." in name


def read_groups(content: RecordDict) -> dict[str, ArrayRecord]:
    """Every group in a message."""
    return {name: unbundle(record) for name, record in content.array_records.items() if is_group(name)}


def record_bytes(record: ArrayRecord) -> int:
    """Tensor bytes of a packed group: shape times the size of the dtype, without Flower's framing."""
    return sum(int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize for array in record.values())


def flatten(groups: Mapping[str, ArrayRecord]) -> ArrayRecord:
    """All groups as one record with keys ``group/tensor``: the form in which Flower hands the model to a strategy."""
    return ArrayRecord({f"{group}/{name}": array for group in groups for name, array in groups[group].items()})


def unflatten(arrays: ArrayRecord) -> dict[str, ArrayRecord]:
    """The groups in a flat record; the arrays are shared, not copied."""
    groups: dict[str, ArrayRecord] = {}
    for key, array in arrays.items():
        group, name = key.rsplit("/", 1)
        groups.setdefault(group, ArrayRecord())[name] = array
    return groups


# --- from a site ---------------------------------------------------------------------------------------------------


def write_site(info: SiteInfo) -> RecordDict:
    """The answer to ``describe``."""
    site = ConfigRecord(
        {
            "name": info.name,
            "code_hash": info.code_hash,
            "spec_hash": info.spec_hash,
            "modalities": list(info.modalities),
            "samples": info.samples,
        }
    )
    statistics: MetricValues = {}
    for name, (count, sums, squares) in info.sums.items():
        statistics.update({f"{name}.count": count, f"{name}.sum": sums, f"{name}.squares": squares})
    content = RecordDict({"site": site, "statistics": MetricRecord(statistics)})
    if info.own is not None:
        content["own"] = ConfigRecord({"spec": info.own.spec, "data_hash": info.own.data_hash})
        for split, held in info.own.holdings.items():
            content[f"holding_{split}"] = ConfigRecord({"samples": held.samples, **_prefixed(held.present)})
    return content


def _prefixed(present: Mapping[str, int]) -> dict[str, int]:
    return {f"has_{name}": count for name, count in present.items()}


def _read_own(content: RecordDict) -> OwnData | None:
    if "own" not in content:
        return None
    own = content.config_records["own"]
    holdings = {
        key.removeprefix("holding_"): _read_holding(record)
        for key, record in content.config_records.items()
        if key.startswith("holding_")
    }
    return OwnData(str(own["spec"]), str(own["data_hash"]), holdings)


def _read_holding(record: ConfigRecord) -> Holding:
    present = {key.removeprefix("has_"): int(record[key]) for key in record if key != "samples"}  # type: ignore[arg-type]
    return Holding(int(record["samples"]), present)  # type: ignore[arg-type]


def read_site(content: RecordDict) -> SiteInfo:
    """A site's description."""
    site, statistics = content.config_records["site"], content.metric_records["statistics"]
    names = sorted({key.rsplit(".", 1)[0] for key in statistics})
    sums: dict[str, Sums] = {
        name: (statistics[f"{name}.count"], statistics[f"{name}.sum"], statistics[f"{name}.squares"])  # type: ignore[misc]
        for name in names
    }
    return SiteInfo(
        name=str(site["name"]),
        code_hash=str(site["code_hash"]),
        spec_hash=str(site["spec_hash"]),
        modalities=tuple(str(name) for name in site["modalities"]),  # type: ignore[union-attr]
        samples=int(site["samples"]),  # type: ignore[arg-type]
        sums=sums,
        own=_read_own(content),
    )


def write_result(result: LocalResult, samples: int, seconds: float) -> RecordDict:
    """The answer to ``local``: groups, counts, mean loss and seconds per phase."""
    content = RecordDict({group: bundle(pack_group(state)) for group, state in result.groups.items()})
    content["counts"] = MetricRecord(dict(result.counts))
    content["real"] = MetricRecord(dict(result.real))
    content["quality"] = MetricRecord(dict(result.quality))
    content["metrics"] = MetricRecord(_losses(result))
    content["seconds"] = MetricRecord({**_phase_seconds(result), "total": seconds})
    content["status"] = ConfigRecord({"ok": True, "samples": samples})
    return content


def _losses(result: LocalResult) -> MetricValues:
    """Phase -> loss, the item-weighted mean over the phase's stages that took a step."""
    losses: MetricValues = {}
    for phase in sorted({stage.phase for stage in result.stages}):
        ran = [stage for stage in result.stages if stage.phase == phase and stage.steps]
        if ran:
            losses[f"{phase}.loss"] = sum(s.loss * s.items for s in ran) / sum(s.items for s in ran)
            losses[f"{phase}.items"] = float(sum(s.items for s in ran))
    return losses


def _phase_seconds(result: LocalResult) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage in result.stages:
        seconds[stage.phase] = seconds.get(stage.phase, 0.0) + stage.seconds
    return seconds


def read_result(content: RecordDict) -> TrainReply:
    """A site's trained groups and numbers."""
    records = content.metric_records
    return TrainReply(
        groups=read_groups(content),
        counts={name: int(count) for name, count in records["counts"].items()},  # type: ignore[arg-type]
        real={name: int(count) for name, count in records["real"].items()},  # type: ignore[arg-type]
        quality={name: float(score) for name, score in records["quality"].items()},  # type: ignore[arg-type]
        metrics={name: float(value) for name, value in records["metrics"].items()},  # type: ignore[arg-type]
        seconds={name: float(value) for name, value in records["seconds"].items()},  # type: ignore[arg-type]
        samples=int(content.config_records["status"]["samples"]),  # type: ignore[arg-type]
    )


def write_identity(content: RecordDict, identity: Identity) -> None:
    """Say which code and which data a reply comes from."""
    content["identity"] = ConfigRecord(dict(vars(identity)))


def read_identity(content: RecordDict) -> Identity:
    """The code and the data that a reply comes from."""
    record = content.config_records["identity"]
    return Identity(*(str(record[key]) for key in ("code_hash", "spec_hash", "data_hash")))


def write_scores(scores: Mapping[str, Score]) -> RecordDict:
    """The answer to ``site``: per split integer counts, their tables row by row (of the histograms only what is not 0),
    and the sum of the losses. The scores themselves, which counts may have with them, stay where they are."""
    metrics: MetricValues = {}
    for split, score in scores.items():
        metrics[f"{split}.confusion"] = score.counts.confusion.flatten().tolist()
        metrics[f"{split}.empty_confusion"] = score.empty.confusion.flatten().tolist()
        if score.counts.histograms is not None:
            metrics[f"{split}.bins"], metrics[f"{split}.in_bins"] = sparse(score.counts.histograms)
        metrics[f"{split}.loss_sum"] = score.loss_sum
    return RecordDict({"metrics": MetricRecord(metrics), "status": ConfigRecord({"ok": True})})


def scores_of(content: RecordDict) -> MetricRecord:
    """A site's scores as they came."""
    return content.metric_records["metrics"]


def read_scores(metrics: Mapping[str, object], spec: DatasetSpec) -> dict[str, Score]:
    """Split -> score on data of ``spec``, from one site's record or from the sum over sites."""
    shapes, scores = target_of(spec).shapes(len(spec.classes)), {}
    for split in sorted({key.split(".", 1)[0] for key in metrics}):
        counted = Counts(_table(metrics[f"{split}.confusion"], shapes["confusion"]))
        if "histograms" in shapes:
            bins, in_bins = metrics[f"{split}.bins"], metrics[f"{split}.in_bins"]
            counted = Counts(counted.confusion, dense(bins, in_bins, shapes["histograms"]))  # type: ignore[arg-type]
        empty = Counts(_table(metrics[f"{split}.empty_confusion"], shapes["confusion"]))
        scores[split] = Score(counted, empty, float(metrics[f"{split}.loss_sum"]))  # type: ignore[arg-type]
    return scores


def _table(cells: object, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(cells, dtype=torch.int64).reshape(shape)
