"""Storage of a site's state between rounds: safetensors files on its disk, one per name and round."""

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
"""Number of newest versions that are kept, in addition to the accepted ones. The server keeps the checkpoints of two
rounds, R - 1 and R, and may resume from the older one after this site has finished R + 1: round R is then repeated, and
needs the version of R - 1."""
FIRST = "first"
"""Metadata key: the round of the first version. It shows whether a site without an earlier version has lost one."""
BEFORE = "before"
"""Metadata key: the rounds of the versions that were accepted when this one was saved. They are needed again if this
one is accepted and the server then resumes from the checkpoint before it."""
RESTORE = "restore it from a backup; until then the run continues without this site (docs/deploy.md, 'Lost state')"


class DiskSiteStore:
    """Versions of a site's state in ``folder``. ``save`` writes the version of ``round_``. ``load`` reads the newest
    version of an earlier round, ``load_accepted`` the version of the last reply that the server accepted."""

    def __init__(self, folder: Path, round_: int, accepted: Accepted | None = None) -> None:
        self.folder = folder
        self.round = round_
        self.accepted = accepted or Accepted()

    def require(self) -> None:
        """Raise ``DataError`` if the folder is not writable, so that this is noticed before the first round."""
        place = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise DataError(
                f"state folder {self.folder} cannot be written: {place} is not a folder that this user can write to"
            )

    def load(self, name: str) -> dict[str, State]:
        """The newest version of ``name`` from before this round; empty if there never was one.

        Raises ``DataError`` if the version that this round needs is damaged or lost.
        """
        versions = self._versions(name)
        earlier = [path for round_, path in versions.items() if round_ < self.round]
        if earlier:
            effect = "continue from the version before" if len(earlier) > 1 else "let the site start over"
            return _read(earlier[-1], f"restore it from a backup, or remove it to {effect}")
        if versions and self._first(name) < self.round:
            raise DataError(
                f"state folder {self.folder}: round {self.round} is repeated and needs '{name}' of an earlier round, "
                f"found only rounds {', '.join(map(str, versions))}; restore the folder from a backup, or remove its "
                f"{name}.round-* to let the site start over"
            )
        return {}

    def load_accepted(self, name: str) -> dict[str, State]:
        """The version of ``name`` that was saved with the last accepted reply; empty if the server accepted none yet. A
        later version, whose reply was lost or rejected, is ignored.

        Raises ``DataError`` if an accepted version is damaged or lost: the server's own state depends on it, so that
        the site can neither continue from another version nor start over.
        """
        versions, files = {}, self._versions(name)
        for round_ in self.accepted.rounds:
            if round_ not in files:
                known = ", ".join(map(str, files))
                raise DataError(
                    f"state folder {self.folder}: expected '{name}' of round {round_}, which the server accepted and "
                    f"depends on, found {f'only rounds {known}' if known else 'no version'}; {RESTORE}"
                )
            versions[round_] = _read(files[round_], f"the server depends on it: {RESTORE}")
        chosen = {group: versions.get(self.accepted.of(group), {}) for group in versions.get(self.accepted.round, {})}
        return {group: version[group] for group, version in chosen.items() if group in version}

    def save(self, name: str, groups: Mapping[str, State]) -> None:
        """Save ``groups`` as this round's version. Keeps the last three versions and those that the server may need.
        Removes those of later rounds: this round is being repeated, and the later ones will be, too."""
        final = self.folder / f"{name}.round-{self.round:06d}.safetensors"
        metadata = {FIRST: str(self._first(name)), BEFORE: " ".join(map(str, sorted(self.accepted.rounds)))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(final, lambda partial: save_file(flatten_groups(groups), partial, metadata))
        except DISK_ERRORS as error:
            raise DataError(
                f"state folder {self.folder} cannot be written: {reason(error)}; free disk space, or correct its "
                "permissions"
            ) from None
        versions = self._versions(name)
        newest = [round_ for round_ in versions if round_ <= self.round][-KEPT:]
        before = _metadata(versions[self.accepted.round], BEFORE, "") if self.accepted.round in versions else ""
        needed = {*newest, *self.accepted.rounds, *map(int, before.split())}
        outdated = [path for round_, path in versions.items() if round_ not in needed]
        for path in (*outdated, *self.folder.glob(f".{name}.round-*.partial")):
            path.unlink(missing_ok=True)

    def _versions(self, name: str) -> dict[int, Path]:
        """Round -> file, ascending."""
        found = self.folder.glob(f"{name}.round-*.safetensors") if self.folder.is_dir() else []
        return dict(sorted((int(path.name.split(".round-")[1].split(".")[0]), path) for path in found))

    def _first(self, name: str) -> int:
        """The round of the first version of ``name``; this round if there is none before it."""
        found = [int(_metadata(path, FIRST, str(round_))) for round_, path in self._versions(name).items()]
        return min([self.round, *found])


def _read(path: Path, todo: str) -> dict[str, State]:
    """The groups in a version; ``DataError`` with the advice ``todo`` if the file is damaged."""
    try:
        return unflatten_groups(load_file(path))
    except DISK_ERRORS as error:
        raise DataError(f"site state {path} cannot be read: {reason(error)}; {todo}") from None


def _metadata(path: Path, key: str, default: str) -> str:
    """The metadata ``key`` of a version; ``default`` if it is missing or the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get(key, default))
    except DISK_ERRORS:
        return default
