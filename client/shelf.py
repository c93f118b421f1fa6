"""What a site keeps on its own disk between rounds: safetensors files, one per name and round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from fedrecon_core.disk import DISK_ERRORS, reason, sync
from fedrecon_core.errors import DataError
from fedrecon_core.state import State, flat, nested

KEPT = 2
"""Versions that stay: a round that is repeated after a crash must find what the round before it left."""


class DiskShelf:
    """``save`` writes this round's version; ``load`` reads the newest version of an earlier round."""

    def __init__(self, folder: Path, round_: int) -> None:
        self.folder = folder
        self.round = round_

    def load(self, name: str) -> dict[str, State]:
        """The set kept under ``name`` before this round; empty if there is none."""
        earlier = [path for round_, path in self._versions(name) if round_ < self.round]
        if not earlier:
            return {}
        try:
            return nested(load_file(earlier[-1]))
        except DISK_ERRORS as error:
            told = "restore it from a backup, or remove it to go on with the version before"
            raise DataError(f"site state {earlier[-1]} cannot be read: {reason(error)}; {told}") from None

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Keep ``groups`` as this round's version; older versions than the last two go."""
        final = self.folder / f"{name}.round-{self.round:06d}.safetensors"
        partial = final.with_suffix(".partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file(flat(groups), partial)
            sync(partial)
            partial.replace(final)
        except DISK_ERRORS as error:
            partial.unlink(missing_ok=True)
            told = getattr(error, "strerror", None) or error
            raise DataError(
                f"state folder {self.folder} cannot be written: {told}; make room or mend its rights"
            ) from None
        for _, path in self._versions(name)[:-KEPT]:
            path.unlink(missing_ok=True)

    def _versions(self, name: str) -> list[tuple[int, Path]]:
        found = self.folder.glob(f"{name}.round-*.safetensors") if self.folder.is_dir() else []
        return sorted((int(path.name.split(".round-")[1].split(".")[0]), path) for path in found)
