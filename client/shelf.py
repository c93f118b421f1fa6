"""What a site keeps on its own disk between rounds: safetensors files, one per name and round."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedrecon_core.disk import DISK_ERRORS, reason, replace_file
from fedrecon_core.errors import DataError
from fedrecon_core.state import State, flat, nested

KEPT = 3
"""Versions that stay. The server keeps the checkpoints of two rounds, R - 1 and R, and may have to go back to the older
one while this site has finished R + 1: round R is repeated then, and needs the version that R - 1 left."""
FIRST = "first"
"""The key under which every version names the round of the first one ever, so that a site without any earlier version
knows whether there never was one or it is gone."""


class DiskShelf:
    """``save`` writes this round's version; ``load`` reads the newest version of an earlier round."""

    def __init__(self, folder: Path, round_: int) -> None:
        self.folder = folder
        self.round = round_

    def require(self) -> None:
        """``DataError`` where nothing could be kept: better before the first round than after it."""
        place = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise DataError(
                f"state folder {self.folder} cannot be written: {place} is no folder with rights for this user"
            )

    def load(self, name: str) -> dict[str, State]:
        """The set kept under ``name`` before this round; empty if nothing was ever kept before it.

        Raises ``DataError`` where the version that this round needs is damaged, or is gone.
        """
        versions = self._versions(name)
        earlier = [path for round_, path in versions if round_ < self.round]
        if not earlier:
            if versions and self._first(name) < self.round:
                raise DataError(self._gone(name, [round_ for round_, _ in versions]))
            return {}
        try:
            return nested(load_file(earlier[-1]))
        except DISK_ERRORS as error:
            what = "go on with the version before" if len(earlier) > 1 else "have the site begin anew"
            told = f"restore it from a backup, or remove it to {what}"
            raise DataError(f"site state {earlier[-1]} cannot be read: {reason(error)}; {told}") from None

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Keep ``groups`` as this round's version. Older versions than the last three go, and so do those of later
        rounds: this round is being repeated, and what came after it never happened."""
        final = self.folder / f"{name}.round-{self.round:06d}.safetensors"
        told = {FIRST: str(self._first(name))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(final, lambda partial: save_file(flat(groups), partial, told))
        except DISK_ERRORS as error:
            raise DataError(
                f"state folder {self.folder} cannot be written: {reason(error)}; make room or mend its rights"
            ) from None
        versions = self._versions(name)
        later = [path for round_, path in versions if round_ > self.round]
        old = [path for _, path in versions[: -KEPT - len(later)]]
        for path in (*later, *old, *self.folder.glob(f".{name}.round-*.partial")):
            path.unlink(missing_ok=True)

    def _versions(self, name: str) -> list[tuple[int, Path]]:
        found = self.folder.glob(f"{name}.round-*.safetensors") if self.folder.is_dir() else []
        return sorted((int(path.name.split(".round-")[1].split(".")[0]), path) for path in found)

    def _first(self, name: str) -> int:
        """The round of the first version ever kept under ``name``; this one, if there was none before it."""
        return min([self.round, *(_first_of(round_, path) for round_, path in self._versions(name))])

    def _gone(self, name: str, kept: list[int]) -> str:
        rounds = ", ".join(map(str, kept))
        return (
            f"state folder {self.folder}: round {self.round} is repeated and needs '{name}' of a round before it, "
            f"found only rounds {rounds}; restore the folder from a backup, or remove its {name}.round-* to have the "
            "site begin anew"
        )


def _first_of(round_: int, path: Path) -> int:
    """What a version says of the first one; a damaged one knows of itself alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return int((file.metadata() or {}).get(FIRST, round_))
    except DISK_ERRORS:
        return round_
