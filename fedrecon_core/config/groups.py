"""Keys that act on some of a run's parameter groups, chosen by how the groups' names begin."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

from pydantic import AfterValidator

from fedrecon_core.errors import did_you_mean
from fedrecon_core.types import Frozen


def _some(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    if not prefixes:
        raise ValueError("expected at least one prefix of the groups' names, found []; [''] means all groups")
    return prefixes


Prefixes = Annotated[tuple[str, ...], AfterValidator(_some)]


class OnGroups(Frozen):
    """Keys of what acts on the groups whose names begin with one of ``groups``, and on no other."""

    groups: Prefixes = ("task.",)

    def strays(self, names: Collection[str]) -> Iterator[str]:
        """For each prefix with which none of the groups ``names`` begins, what was expected and what was found."""
        for prefix in self.groups:
            if not any(name.startswith(prefix) for name in names):
                families = ", ".join(sorted({name.partition(".")[0] + "." for name in names}))
                expected = f"expected prefixes of the groups of this run, whose names begin with {families}"
                yield f"{expected}; found '{prefix}'{_nearest(prefix, names)}"


def _nearest(prefix: str, names: Iterable[str]) -> str:
    """A hint with the nearest of the parts, up to a dot or to the end, with which ``names`` begin."""
    ends = {(name, place) for name in names for place, sign in enumerate(name, 1) if sign == "." or place == len(name)}
    hint = did_you_mean(prefix, sorted({name[:end] for name, end in ends}))
    return f". {hint}" if hint else ""
