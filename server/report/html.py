"""The self-contained report of a run: one HTML file, no network, no script."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.report import missingness, overview, sections
from server.report.formats import count
from server.report.markup import Markup, joined, paragraph, tag, unfold
from server.report.reader import RunRecord, mapping, number, read_run
from server.report.style import CSS

REPORT = "report.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # the browser itself keeps the page off the net


@dataclass(frozen=True)
class Section:
    """One part of the page: its anchor, its title, its content (nothing: ``empty`` says why) and what to say then."""

    anchor: str
    title: str
    content: Callable[[RunRecord], Markup]
    empty: str


def write_report(directory: Path) -> Path:
    """Write ``report.html`` into the run directory, whole or not at all, and return its path.

    Raises:
        DataError: ``directory`` is no run directory.
    """
    page = render(read_run(directory))
    path = directory / REPORT
    part = path.with_suffix(".html.part")
    part.write_bytes(page.encode("utf-8", errors="replace"))
    os.replace(part, path)  # noqa: PTH105
    return path


def render(record: RunRecord) -> str:
    """The whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{record.name} · FedRecon"),
        tag("style", Markup(CSS)),
    )
    top = [overview.heading(record), overview.notices(record), overview.tiles(record)]
    main = tag("main", *top, _navigation(), *(_section(section, record) for section in SECTIONS), id="content")
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    closing = tag("footer", f"Written by FedRecon {_versions(record).get('fedrecon', '')}".rstrip() + ".")
    return f"<!doctype html>\n{tag('html', head, tag('body', skip, main, closing), lang='en')}\n"


def _navigation() -> Markup:
    links = (tag("li", tag("a", section.title, href=f"#{section.anchor}")) for section in SECTIONS)
    return tag("nav", tag("ul", *links), aria_label="Sections")


def _section(section: Section, record: RunRecord) -> Markup:
    content = section.content(record) or paragraph(section.empty, class_="hint")
    heading = tag("h2", section.title, id=f"{section.anchor}-title")
    return tag("section", heading, content, id=section.anchor, aria_labelledby=f"{section.anchor}-title")


def _details(record: RunRecord) -> Markup:
    """What it takes to run it again: seed, hashes, versions, config."""
    facts = tag("dl", *(joined([tag("dt", name), tag("dd", value)]) for name, value in _facts(record)), class_="facts")
    parts = [facts, unfold("Resolved config (config.yaml)", tag("pre", tag("code", record.config_text)))]
    return joined(parts if record.config_text else parts[:1])


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
