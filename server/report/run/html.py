"""The report of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.report.again import command
from server.report.markup import Markup, joined, tag, unfold_text
from server.report.page import Section, document, write_page
from server.report.run import missingness, overview, sections
from server.runs.formatting import count
from server.runs.record import RunRecord, mapping, number, read_run


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into the run directory, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is no run directory; ``RunError`` where the page cannot be written.
    """
    return write_page(directory, render(read_run(directory)))


def render(record: RunRecord) -> str:
    """The whole page."""
    top = [overview.heading(record), overview.notices(record), overview.tiles(record)]
    closing = f"Written by FedRecon {_versions(record).get('fedrecon', '')}".rstrip() + "."
    return document(record, record.name, top, SECTIONS, closing)


def _details(record: RunRecord) -> Markup:
    """What it takes to run it again: the command, seed, hashes, versions, config."""
    facts = tag("dl", *(joined([tag("dt", name), tag("dd", value)]) for name, value in _facts(record)), class_="facts")
    if not record.config_text:
        return facts
    config = unfold_text("Resolved config (config.yaml)", record.config_text)
    return joined([*command("config.yaml", "../repeated"), facts, config])


def _facts(record: RunRecord) -> Iterator[tuple[str, Any]]:
    seed = number(record.manifest.get("seed", record.setting("seed")))
    if seed is not None:
        yield "Seed", f"{seed:.0f}"
    engine = record.manifest.get("engine") or record.setting("engine.name")
    yield "Engine", str(engine or "unknown")
    total = sum(number(value) or 0.0 for value in mapping(record.manifest.get("parameters")).values())
    if total:
        yield "Parameters", count(total)
    for key, name in HASHES.items():
        value = record.manifest.get(key) or record.result.get(key)
        if value:
            yield name, tag("code", str(value))
    if _versions(record):
        yield "Versions", ", ".join(f"{name} {version}" for name, version in _versions(record).items())


HASHES = {
    "code_sha256": "Code, SHA-256",
    "partition_sha256": "Partition, SHA-256",
    "mask_sha256": "Masks, SHA-256",
    "parameters_sha256": "Last parameters, SHA-256",
    "model_sha256": "Model, SHA-256",
}


def _versions(record: RunRecord) -> dict[str, Any]:
    return dict(mapping(record.manifest.get("versions")))


SECTIONS = (
    Section("curves", "Learning curves", sections.curves, "No round has been scored."),
    Section("pictures", "Reconstructions", sections.reconstructions, "This run drew no reconstructions."),
    Section("sites", "Sites", sections.sites, "No site is known."),
    Section("missing", "Missing data", missingness.missing, "The manifest does not say what is missing."),
    Section("classes", "Classes", missingness.classes, "The manifest does not say which classes the sites hold."),
    Section("traffic", "Traffic", sections.traffic_section, "No bytes were counted."),
    Section("time", "Time", sections.time, "No site has reported its times."),
    Section("details", "Reproduce", _details, ""),
)
