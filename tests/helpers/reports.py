"""A run directory with all contents of a report, and a parser of the page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from server.training.reconstruction_images import save_grid

SITES, ROUNDS, MODALITIES = 8, 12, ("m0", "m1", "m2")
FAILED = {(3, 5): "timeout: no reply within 600 s", (6, 9): "DataError: arrays/m1.npy: checksum differs"}


def held(site: int) -> list[str]:
    """The modalities of a site; some sites lack one or two."""
    return [m for place, m in enumerate(MODALITIES) if (site + place) % 3 or site == 0]


def groups_of(modalities: list[str]) -> list[str]:
    parts = [f"generator.{m}.{half}" for m in modalities for half in ("encoder", "decoder")]
    mappings = [f"mapping.{a}->{b}" for a in modalities for b in modalities if a != b]
    return [*parts, *mappings, *(f"task.extractor.{m}" for m in modalities), "task.head"]


def parameters() -> dict[str, int]:
    sizes = {"generator": 61_000, "mapping": 9_000, "task": 24_000}
    return {group: sizes[group.split(".")[0]] for group in groups_of(list(MODALITIES))}


def config(name: str = "quickstart") -> dict[str, Any]:
    rate = {"level": "site", "rate": 0.5}
    return {
        "name": name,
        "seed": 1,
        "rounds": ROUNDS,
        "data": {"name": "polydigits", "partition": {"name": "dirichlet", "alpha": 0.5}},
        "sites": {"count": SITES},
        "engine": {"name": "inprocess", "workers": 1},
        "missing": {
            "train": rate,
            "validation": {"level": "sample", "rate": 0.5},
            "test": {"level": "sample", "rate": 0.5},
        },
        "recovery": {"name": "fedrecon"},
        "strategy": {"name": "fedavg"},
    }


def manifest(names: list[str]) -> dict[str, Any]:
    random = np.random.default_rng(0)
    rates = {
        split: dict.fromkeys(MODALITIES, rate)
        for split, rate in (("train", 0.34), ("validation", 0.42), ("test", 0.43))
    }
    sites = [
        {
            "name": name,
            "samples": int(counts.sum()),
            "modalities": {m: float(m in held(k)) * (0.62 if k == 5 else 1.0) for m in MODALITIES},
            "classes": counts.tolist(),
        }
        for k, name in enumerate(names)
        for counts in [(random.dirichlet([0.5] * 10) * 420).round().astype(int)]
    ]
    return {
        "versions": {"fedrecon": "0.1.0", "flwr": "1.41.0", "torch": "2.13.0"},
        "seed": 1,
        "engine": "inprocess",
        **{f"{what}_sha256": f"{place}" * 64 for place, what in enumerate(("code", "partition", "mask"), 1)},
        "parameters": parameters(),
        "sites": sites,
        "effective_missing": rates,
        "modalities": list(MODALITIES),
        "classes": [str(digit) for digit in range(10)],
        "full_bytes": 4 * sum(parameters().values()),
    }


def metric_lines() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for turn in range(1, ROUNDS + 1):
        fall, rise = math.exp(-turn / 4), 0.72 - 0.62 * math.exp(-turn / 3) - 0.004 * max(0, turn - 9)
        train = {"loss": 0.4 + 1.9 * fall, "loss_generator": 210 + 640 * fall, "loss_mapping": 18 + 22 * fall}
        lines.append({"round": turn, "split": "train", "n": 3360, **train})
        scores = {"loss": 0.8 + 1.5 * fall, "accuracy": rise + 0.01, "uar": rise, "macro_f1": rise - 0.02}
        lines.append({"round": turn, "split": "validation", "n": 200, **scores})
    return [
        *lines,
        {"round": 9, "split": "test", "n": 7940, "loss": 0.97, "accuracy": 0.681, "uar": 0.674, "macro_f1": 0.662},
    ]


def site_line(turn: int, site: int, name: str) -> dict[str, Any]:
    groups, sizes, reason = groups_of(held(site)), parameters(), FAILED.get((site, turn))
    line = {"round": turn, "site": name, "samples": 400 + site, "groups_down": groups}
    line["bytes_down"] = 4 * sum(sizes[group] for group in groups)
    if reason:
        return {**line, "status": "failed", "reason": reason, "groups_up": [], "bytes_up": 0, "total_seconds": 0.4}
    spent = {"generator_seconds": 0.31 * len(held(site)), "mapping_seconds": 0.12, "task_seconds": 0.22}
    up = {"groups_up": groups, "bytes_up": line["bytes_down"], **spent, "total_seconds": 0.08 + sum(spent.values())}
    return {**line, "status": "ok", **up}


def result(sites: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "status": "completed",
        "rounds": ROUNDS,
        "best_round": 9,
        "test": {"accuracy": 0.681, "uar": 0.674, "macro_f1": 0.662, "loss": 0.97, "n": 7940},
        "parameters_sha256": "4" * 64,
        "model_sha256": "5" * 64,
        "bytes_down": sum(line["bytes_down"] for line in sites),
        "bytes_up": sum(line["bytes_up"] for line in sites),
        "wall_seconds": 93.4,
        "train_seconds": 71.25,
    }


def write_run(directory: Path, names: list[str] | None = None, name: str = "quickstart") -> Path:
    """A realistic run: 8 sites, 12 rounds, site 7 not sampled in every third round, two failures, a picture grid."""
    directory.mkdir(parents=True, exist_ok=True)
    names = names or [f"site-{k:04d}" for k in range(SITES)]
    turns = [(turn, k) for turn in range(1, ROUNDS + 1) for k in range(SITES) if k != 7 or turn % 3]
    sites = [site_line(turn, k, names[k]) for turn, k in turns]
    (directory / "config.yaml").write_text(yaml.safe_dump(config(name), sort_keys=False))
    (directory / "manifest.json").write_text(json.dumps(manifest(names)))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metric_lines()))
    (directory / "sites.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sites))
    (directory / "result.json").write_text(json.dumps(result(sites)))
    images = np.random.default_rng(0).random((3, 4, 3, 16, 16))
    images[1, 2] = np.nan
    save_grid(directory / "reconstructions.png", ["source", *MODALITIES], [f"from {m}" for m in MODALITIES], images)
    return directory


# --- pages ------------------------------------------------------------------------------------------------------------

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The elements, ids and text of a page; fails on wrongly nested elements."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())
