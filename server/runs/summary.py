"""Summaries of a run's files: status, curves, participation, traffic. Pure functions of a ``RunRecord``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedrecon_core.metrics.base import metric_title, shown_metrics
from server.runs.record import RunRecord, entries, mapping, number

Direction = Literal["down", "up"]
Points = tuple[tuple[float, float], ...]
STAGES = {"generator_seconds": "Generators", "mapping_seconds": "Mappings", "task_seconds": "Task model"}
OTHER = "Other"  # time outside of the stages: reading, sending, validating mappings


@dataclass(frozen=True)
class Traffic:
    """Tensor bytes sent in one direction, and what the same site-rounds would cost if every group were sent."""

    sent: float | None
    everything: float | None
    site_rounds: int

    @property
    def saving(self) -> float | None:
        """Share of ``everything`` that was not sent; None if it is unknown."""
        if self.sent is None or not self.everything:
            return None
        return 1 - self.sent / self.everything


def status(record: RunRecord) -> str:
    """Return the status in the result (``completed``, ``failed``, ...); ``unfinished`` if there is no result."""
    return str(record.result.get("status") or "unfinished")


def error(record: RunRecord) -> str | None:
    """Return the reason why the run failed; None if there is none."""
    found = record.result.get("error")
    return str(found) if found else None


def traffic(record: RunRecord, direction: Direction) -> Traffic:
    """Return the bytes ``down`` or ``up`` over the run, of all sites."""
    found = traffic_of(record, direction, record.sites)
    return found if record.sites else replace(found, sent=number(record.result.get(f"bytes_{direction}")))


def traffic_of(record: RunRecord, direction: Direction, lines: Sequence[Mapping[str, Any]]) -> Traffic:
    """Return the bytes ``down`` or ``up`` in ``lines`` of the record's sites.

    A site-round that sent nothing because it failed is not compared: a failure does not count as saving.
    """
    sent = [number(line.get(f"bytes_{direction}")) or 0.0 for line in lines]
    counted = sum(1 for line, got in zip(lines, sent, strict=True) if got > 0 or line.get("status") == "ok")
    full = number(record.manifest.get("full_bytes"))
    return Traffic(sum(sent) if lines else None, full * counted if full and counted else None, counted)


def points(record: RunRecord, split: str, field: str) -> Points:
    """Return (round, value) of one metric in one split, by round; if a round was repeated, its last value."""
    found = {}
    for line in record.metrics:
        turn, value = number(line.get("round")), number(line.get(field))
        if line.get("split") == split and turn is not None and value is not None:
            found[turn] = value
    return tuple(sorted(found.items()))


def diverged(record: RunRecord) -> list[str]:
    """Return a message for each loss that was not finite in some round, with the first such round."""
    found: dict[str, str] = {}
    for line in record.metrics:
        for key, value in line.items():
            if key.startswith("loss") and number(value) is None:  # written as null
                name = f"{line.get('split')} {key}"
                found.setdefault(name, f"{name} is no finite number from round {line.get('round')} on")
    return list(found.values())


def final_scores(record: RunRecord) -> Mapping[str, Any]:
    """Return the test scores of the result, or of the metrics if there is no result."""
    written = [line for line in record.metrics if line.get("split") == "test"]
    return mapping(record.result.get("test")) or (written[-1] if written else {})


def scores(record: RunRecord) -> dict[str, str]:
    """Return field -> title of the run's scores; if it has none yet, those for one class per sample."""
    written = {field for line in (*record.metrics, final_scores(record)) for field in line}
    metrics = shown_metrics()
    names = written & metrics.keys() or {name for name in metrics if "multiclass" in metrics[name].targets}
    return {name: metric_title(name) for name in metrics if name in names}


def best_round(record: RunRecord) -> int | None:
    """Return the best-validation round, whose parameters are the model; None if it is unknown."""
    found = number(record.result.get("best_round"))
    return None if found is None else int(found)


def rounds_done(record: RunRecord) -> int:
    """Return the number of completed rounds, from the result or, while the run is in progress, from its metrics."""
    rounds = number(record.result.get("rounds"))
    return int(rounds if rounds is not None else max(_rounds(record.metrics), default=0))


def site_rounds(record: RunRecord) -> list[int]:
    """Return every round from the first to the last in which a site has reported."""
    seen = _rounds(record.sites)
    return list(range(min(seen), max(seen) + 1)) if seen else []


def _rounds(lines: Iterable[Mapping[str, Any]]) -> list[int]:
    return [int(turn) for line in lines if (turn := number(line.get("round"))) is not None]


def described_sites(record: RunRecord) -> list[Mapping[str, Any]]:
    """Return the entries of the sites in the manifest."""
    return [mapping(site) for site in entries(record.manifest.get("sites")) if mapping(site).get("name") is not None]


def site_names(record: RunRecord) -> list[str]:
    """Return all sites: those of the manifest, then any others that have reported."""
    named = [site["name"] for site in described_sites(record)] + [line.get("site") for line in record.sites]
    return list(dict.fromkeys(str(name) for name in named if name is not None))


def modalities(record: RunRecord) -> list[str]:
    """Return the names of the modalities, in the data set's order."""
    listed = [str(name) for name in entries(record.manifest.get("modalities"))]
    return listed or list(dict.fromkeys(m for site in described_sites(record) for m in mapping(site.get("modalities"))))


def participation(record: RunRecord) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return site -> round -> its line in ``sites.jsonl``; if a round was repeated, its last line."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {name: {} for name in site_names(record)}
    for line in record.sites:
        turn = number(line.get("round"))
        if turn is not None and line.get("site") is not None:
            found[str(line["site"])][int(turn)] = line
    return found


def failures(record: RunRecord) -> list[Mapping[str, Any]]:
    """Return the lines of sites that failed in a round, including rounds that were repeated."""
    return [line for line in record.sites if line.get("status") == "failed"]


def stage_seconds(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return stage -> seconds in ``lines`` of a record's sites; ``OTHER`` is the rest."""
    sums = {name: sum(number(line.get(key)) or 0.0 for line in lines) for key, name in STAGES.items()}
    whole = sum(number(line.get("total_seconds")) or 0.0 for line in lines)
    return {**sums, OTHER: max(0.0, whole - sum(sums.values()))}


def group_uses(record: RunRecord, direction: Direction) -> dict[str, int]:
    """Return parameter group -> the number of site-rounds in which it was sent."""
    found: dict[str, int] = {}
    for line in record.sites:
        for group in entries(line.get(f"groups_{direction}")):
            found[str(group)] = found.get(str(group), 0) + 1
    return found
