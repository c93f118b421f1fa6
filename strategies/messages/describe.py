"""The reply to ``describe``: a site's name, hashes and data. Every train reply contains the hashes, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.statistics import Sums, site_sums
from strategies.messages.instruction import MetricValues


@dataclass(frozen=True)
class Holding:
    """The number of a site's samples of one split, and of those with each modality."""

    samples: int
    present: dict[str, int]

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that at least one sample has, in the order of the specification."""
        return tuple(name for name, count in self.present.items() if count)


@dataclass(frozen=True)
class OwnData:
    """The description of data that the server cannot see: the specification as JSON, a SHA-256 that changes with any
    file of the site folder, and split -> holding."""

    spec: str
    data_hash: str
    holdings: dict[str, Holding]


@dataclass(frozen=True)
class Identity:
    """Hashes of a site's code and data. Every train reply contains them, so that the server notices a change during a
    run. ``data_hash`` is empty if the server assigned the samples."""

    code_hash: str
    spec_hash: str
    data_hash: str = ""


@dataclass(frozen=True)
class SiteInfo:
    """A site's description. ``samples`` is the number of its training samples, ``sums`` the statistics of its present
    training rows; ``own`` is None if the server assigned the samples."""

    name: str
    code_hash: str
    spec_hash: str
    modalities: tuple[str, ...]
    samples: int
    sums: dict[str, Sums]
    own: OwnData | None = None

    @classmethod
    def of(cls, name: str, code_hash: str, data: SiteData, own: OwnData | None = None) -> SiteInfo:
        """The description of the site ``name`` with the training samples ``data``."""
        return cls(name, code_hash, data.spec.digest(), data.modalities, len(data), site_sums(data), own)

    @property
    def identity(self) -> Identity:
        """The hashes that every train reply of the site must contain."""
        return Identity(self.code_hash, self.spec_hash, self.own.data_hash if self.own else "")


def write_site_info(info: SiteInfo) -> RecordDict:
    """``info`` as the content of a message."""
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
            present = {f"has_{name}": count for name, count in held.present.items()}
            content[f"holding_{split}"] = ConfigRecord({"samples": held.samples, **present})
    return content


def read_site_info(content: RecordDict) -> SiteInfo:
    """The description in a message. A malformed one may raise any exception."""
    site: Any = content.config_records["site"]
    statistics: Any = content.metric_records["statistics"]
    own = None
    if "own" in content:
        holdings = {}
        for key, record in content.config_records.items():
            if key.startswith("holding_"):
                counts: dict[str, Any] = dict(record)
                samples = int(counts.pop("samples"))
                holdings[key.removeprefix("holding_")] = Holding(
                    samples, {name.removeprefix("has_"): int(count) for name, count in counts.items()}
                )
        record = content.config_records["own"]
        own = OwnData(str(record["spec"]), str(record["data_hash"]), holdings)
    return SiteInfo(
        name=str(site["name"]),
        code_hash=str(site["code_hash"]),
        spec_hash=str(site["spec_hash"]),
        modalities=tuple(str(name) for name in site["modalities"]),
        samples=int(site["samples"]),
        sums={
            name: (statistics[f"{name}.count"], statistics[f"{name}.sum"], statistics[f"{name}.squares"])
            for name in sorted({key.rsplit(".", 1)[0] for key in statistics})
        },
        own=own,
    )


def write_identity(content: RecordDict, identity: Identity) -> None:
    """Add ``identity`` to a reply."""
    content["identity"] = ConfigRecord(dict(vars(identity)))


def read_identity(content: RecordDict) -> Identity:
    """The identity in a reply."""
    record = content.config_records["identity"]
    return Identity(*(str(record[key]) for key in ("code_hash", "spec_hash", "data_hash")))
