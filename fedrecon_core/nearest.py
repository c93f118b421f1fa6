"""A hint for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``Did you mean 'mask'?``: the one of ``known`` that is written most like ``name`` or, as for ``f1``, the one that
    has it as a part; empty if none is near."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1) or _with_part(name, names)
    return f"Did you mean '{near[0]}'?" if near else ""


def _with_part(name: str, known: Iterable[str]) -> list[str]:
    found = [one for one in known if name in one.split("_")]
    return found if len(found) == 1 else []
