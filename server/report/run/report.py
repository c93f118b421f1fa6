"""The report of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from server.report.page import Section, render, write_page
from server.report.run import missingness, sections
from server.report.run.overview import overview, tiles
from server.runs.formatting import count
from server.runs.record import RunRecord, mapping, number, read_run

HASHES = {
    "code_sha256": "Code, SHA-256",
    "partition_sha256": "Partition, SHA-256",
    "mask_sha256": "Masks, SHA-256",
    "parameters_sha256": "Last parameters, SHA-256",
    "model_sha256": "Model, SHA-256",
}


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into the run directory, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is no run directory.
        RunError: the page cannot be written.
    """
    return write_page(directory, render_run(read_run(directory)))


def render_run(record: RunRecord) -> str:
    """Return the whole page as HTML."""
    closing = f"Written by FedRecon {_versions(record).get('fedrecon', '')}".rstrip() + "."
    top = {"name": record.name, "closing": closing, "run": overview(record), "tiles": list(tiles(record))}
    return render("run.html.md", record, SECTIONS, **top)


def details(record: RunRecord) -> dict[str, Any]:
    """Collect what identifies the run (``facts``: name, value, whether the value is code) and its ``config.yaml``."""
    return {"facts": list(_facts(record)), "config": record.config_text}


def _facts(record: RunRecord) -> Iterator[tuple[str, str, bool]]:
    seed = number(record.manifest.get("seed", record.setting("seed")))
    if seed is not None:
        yield "Seed", f"{seed:.0f}", False
    yield "Engine", str(record.manifest.get("engine") or record.setting("engine.name") or "unknown"), False
    total = sum(number(value) or 0.0 for value in mapping(record.manifest.get("parameters")).values())
    if total:
        yield "Parameters", count(total), False
    for key, name in HASHES.items():
        value = record.manifest.get(key) or record.result.get(key)
        if value:
            yield name, str(value), True
    if versions := _versions(record):
        yield "Versions", ", ".join(f"{name} {version}" for name, version in versions.items()), False


def _versions(record: RunRecord) -> Mapping[str, Any]:
    return mapping(record.manifest.get("versions"))


SECTIONS = (
    Section("curves", "Learning curves", sections.curves, "No round has been scored."),
    Section("pictures", "Reconstructions", sections.pictures, "This run drew no reconstructions."),
    Section("sites", "Sites", sections.sites, "No site is known."),
    Section("missing", "Missing data", missingness.missing, "The manifest does not say what is missing."),
    Section("classes", "Classes", missingness.classes, "The manifest does not list the classes of the sites."),
    Section("traffic", "Traffic", sections.traffic, "No bytes were counted."),
    Section("time", "Time", sections.time, "No site has reported its times."),
    Section("details", "Reproduce", details, ""),
)
