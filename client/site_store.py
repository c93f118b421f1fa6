"""What a site keeps on its own disk between rounds: safetensors files, one per name and round."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedrecon_core.errors import DataError
from fedrecon_core.files import DISK_ERRORS, reason, replace_file
from fedrecon_core.state import State, flatten_groups, unflatten_groups
from strategies.messages import Accepted

KEPT = 3
"""Newest versions that stay, beside the accepted ones. The server keeps the checkpoints of two rounds, R - 1 and R, and
may have to go back to the older one while this site has finished R + 1: round R is repeated then, and needs the version
that R - 1 left."""
FIRST = "first"
"""The key under which every version names the round of the first one ever, so that a site without any earlier version
knows whether there never was one or it is gone."""
BEFORE = "before"
"""The key under which every version names the rounds whose versions were the accepted ones when it was made. If it is
accepted and the server goes back to the checkpoint before that, these are what it asks for."""
NOTHING = Accepted()
RESTORE = "restore it from a backup; until then the run goes on without this site (docs/deploy.md, 'Lost state')"


class DiskSiteStore:
    """``save`` writes this round's version. ``load`` reads the newest version of an earlier round, ``load_accepted``
    the one that was kept beside the last reply that the server accepted."""

    def __init__(self, folder: Path, round_: int, accepted: Accepted = NOTHING) -> None:
        self.folder = folder
        self.round = round_
        self.accepted = accepted

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
        what = "go on with the version before" if len(earlier) > 1 else "have the site begin anew"
        return _read(earlier[-1], f"restore it from a backup, or remove it to {what}")

    def load_accepted(self, name: str) -> dict[str, State]:
        """What was kept under ``name`` beside the last accepted reply; empty if the server accepted none yet. A later
        version, whose reply was lost or refused, counts for nothing.

        Raises ``DataError`` where an accepted version is damaged, or is gone: the server reckons with it, so that the
        site can neither go on from another one nor begin anew.
        """
        versions = {round_: self._accepted(name, round_) for round_ in self.accepted.rounds}
        chosen = {group: versions.get(self.accepted.of(group), {}) for group in versions.get(self.accepted.round, {})}
        return {group: version[group] for group, version in chosen.items() if group in version}

    def _accepted(self, name: str, round_: int) -> dict[str, State]:
        path = self._path(name, round_)
        if not path.exists():
            raise DataError(self._lost(name, round_))
        return _read(path, f"the server reckons with it: {RESTORE}")

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Keep ``groups`` as this round's version. Of older ones the last three stay, and whatever the server may ask
        for. Versions of later rounds go: this round is being repeated, and what came after it never happened."""
        final = self._path(name, self.round)
        told = {FIRST: str(self._first(name)), BEFORE: " ".join(map(str, sorted(self.accepted.rounds)))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(final, lambda partial: save_file(flatten_groups(groups), partial, told))
        except DISK_ERRORS as error:
            raise DataError(
                f"state folder {self.folder} cannot be written: {reason(error)}; make room or mend its rights"
            ) from None
        stay = self._needed(name)
        gone = [path for round_, path in self._versions(name) if round_ not in stay]
        for path in (*gone, *self.folder.glob(f".{name}.round-*.partial")):
            path.unlink(missing_ok=True)

    def _needed(self, name: str) -> set[int]:
        """This round and the ones just before it, the accepted ones, and those that were accepted before them."""
        last = [round_ for round_, _ in self._versions(name) if round_ <= self.round][-KEPT:]
        before = _told(self._path(name, self.accepted.round), BEFORE, "")
        return {*last, *self.accepted.rounds, *map(int, before.split())}

    def _path(self, name: str, round_: int) -> Path:
        return self.folder / f"{name}.round-{round_:06d}.safetensors"

    def _versions(self, name: str) -> list[tuple[int, Path]]:
        found = self.folder.glob(f"{name}.round-*.safetensors") if self.folder.is_dir() else []
        return sorted((int(path.name.split(".round-")[1].split(".")[0]), path) for path in found)

    def _first(self, name: str) -> int:
        """The round of the first version ever kept under ``name``; this one, if there was none before it."""
        found = [int(_told(path, FIRST, str(round_))) for round_, path in self._versions(name)]
        return min([self.round, *found])

    def _gone(self, name: str, kept: list[int]) -> str:
        rounds = ", ".join(map(str, kept))
        return (
            f"state folder {self.folder}: round {self.round} is repeated and needs '{name}' of a round before it, "
            f"found only rounds {rounds}; restore the folder from a backup, or remove its {name}.round-* to have the "
            "site begin anew"
        )

    def _lost(self, name: str, round_: int) -> str:
        found = ", ".join(str(kept) for kept, _ in self._versions(name))
        return (
            f"state folder {self.folder}: expected '{name}' of round {round_}, which the server accepted and reckons "
            f"with, found {f'only rounds {found}' if found else 'nothing kept'}; {RESTORE}"
        )


def _read(path: Path, told: str) -> dict[str, State]:
    """The groups in a version; a damaged one is a ``DataError`` that says what is ``told`` to do."""
    try:
        return unflatten_groups(load_file(path))
    except DISK_ERRORS as error:
        raise DataError(f"site state {path} cannot be read: {reason(error)}; {told}") from None


def _told(path: Path, key: str, otherwise: str) -> str:
    """What a version says under ``key``; one that is damaged or not there says ``otherwise``."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(key, otherwise))
    except DISK_ERRORS:
        return otherwise
