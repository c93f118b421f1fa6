"""Who a site is and what it holds: the answer to ``describe``, and the hashes in every train reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.data.statistics import Sums
from strategies.messages.value_types import MetricValues


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


def write_identity(content: RecordDict, identity: Identity) -> None:
    """Say which code and which data a reply comes from."""
    content["identity"] = ConfigRecord(dict(vars(identity)))


def read_identity(content: RecordDict) -> Identity:
    """The code and the data that a reply comes from."""
    record = content.config_records["identity"]
    return Identity(*(str(record[key]) for key in ("code_hash", "spec_hash", "data_hash")))
