"""Checkpoints: the state of a run after a round, as safetensors and JSON in one folder per round, written
atomically."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from fedrecon_core.data.statistics import Statistics
from fedrecon_core.errors import RunError
from fedrecon_core.files import DISK_ERRORS, reason, sync
from fedrecon_core.state import State, flatten_groups, unflatten_groups
from server.runs.directory import checkpoint_folders
from strategies.messages import Accepted

KEPT = 2
"""How many checkpoints are kept. A resume reads the newest one; the other is kept in case it is damaged. Sites keep the
versions of their state that either may need (``client.site_store.KEPT``)."""


@dataclass(frozen=True)
class Best:
    """The best round so far by its validation score."""

    round: int = 0
    score: float = -1.0


@dataclass
class Training:
    """The state of a run at the server, which each round changes."""

    round: int
    groups: dict[str, State]
    best_groups: dict[str, State] = field(default_factory=dict)
    strategy: dict[str, State] = field(default_factory=dict)
    best: Best = field(default_factory=Best)
    trained: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    best_trained: dict[str, int] = field(default_factory=dict)
    best_quality: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    norms: dict[str, dict[str, float]] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    wire_bytes: int = 0
    train_seconds: float = 0.0
    train_processor_seconds: float | None = 0.0
    wall_seconds: float = 0.0


_PARTS = ("groups", "best_groups", "strategy")


def save(folder: Path, training: Training) -> None:
    """Write the checkpoint of ``training.round`` into ``folder`` and delete all but the last ``KEPT``.

    Raises ``RunError`` for a full disk or a folder that is not writable; earlier checkpoints are kept then.
    """
    final = folder / f"round-{training.round:06d}"
    partial = folder / f".round-{training.round:06d}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        parts = {f"{part}/{group}": state for part in _PARTS for group, state in getattr(training, part).items()}
        parts |= {f"statistics/{name}": {"mean": s.mean, "std": s.std} for name, s in training.statistics.items()}
        # the best groups may be the current ones, and safetensors refuses tensors that share memory
        tensors = {key: tensor.clone() for key, tensor in flatten_groups(parts).items()}
        save_file(tensors, partial / "state.safetensors")
        plain = {key: value for key, value in vars(training).items() if key not in (*_PARTS, "statistics")}
        accepted = {site: asdict(found) for site, found in training.accepted.items()}
        text = json.dumps({**plain, "best": asdict(training.best), "accepted": accepted}, indent=1)
        (partial / "state.json").write_text(text, encoding="utf-8")
        for file in partial.iterdir():
            sync(file)
        if final.exists():
            shutil.rmtree(final)
        sync(partial)
        partial.rename(final)
        sync(folder)
    except DISK_ERRORS as error:
        shutil.rmtree(partial, ignore_errors=True)
        todo = "the previous checkpoint is kept; fix the cause, then continue with --resume"
        raise RunError(f"cannot write checkpoint {final}: {reason(error)}; {todo}") from None
    for old in (*checkpoint_folders(folder)[:-KEPT], *folder.glob(".round-*.partial")):
        shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path) -> Training | None:
    """Read the newest checkpoint; None if there is none. Raises ``RunError`` if it is damaged."""
    found = checkpoint_folders(folder)
    if not found:
        return None
    try:
        plain = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        plain["accepted"] = {site: Accepted(**known) for site, known in plain["accepted"].items()}
        tensors = load_file(found[-1] / "state.safetensors")
    except Exception as error:
        where = "from the previous one" if len(found) > 1 else "from the beginning: it is the only one"
        raise RunError(f"checkpoint {found[-1]} cannot be read: {error}; remove it to resume {where}") from None
    parts: dict[str, Any] = {part: {} for part in (*_PARTS, "statistics")}
    for key, state in unflatten_groups(tensors).items():
        part, group = key.split("/", 1)
        parts[part][group] = state
    parts["statistics"] = {name: Statistics(**values) for name, values in parts["statistics"].items()}
    unknown = {"train_processor_seconds": None}  # old checkpoints do not have it
    return Training(**{**unknown, **plain, "best": Best(**plain["best"])}, **parts)
