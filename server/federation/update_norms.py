"""Is a site's update absurdly large? What is finite and well-formed may still wipe out what all others trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from statistics import median_low
from types import MappingProxyType

import numpy as np
from flwr.app import ArrayRecord

from fedrecon_core.config import Updates
from fedrecon_core.state import STRATEGY_GROUPS
from strategies.messages import opened

MEMORY = 0.5
"""Weight of a site's latest norm in the mean of its own."""
OWN_LEAST, NOTHING = (1.0, "the least for a group of the strategy's own"), (0.0, "")
"""Norms with which those of a strategy's own groups, and of others, are compared at least."""
NONE: Mapping[str, Set[str]] = MappingProxyType({})
History = dict[str, dict[str, float]]
"""Group -> site -> mean norm of the updates that were taken from it, of groups that few sites hold."""


def norm_of(group: ArrayRecord, start: ArrayRecord | None = None) -> float:
    """The L2 norm of a group, or of its way from ``start``, in float64."""
    total = 0.0
    for name in sorted(group):
        values = opened(group[name])
        way = np.subtract(values, 0 if start is None else opened(start[name]), dtype=np.float64).ravel()
        total += float(way @ way)
    return math.sqrt(total)


@dataclass(frozen=True)
class Verdict:
    """``faults``: site -> what is wrong with its update; ``history`` as it is if this attempt of the round is taken."""

    faults: dict[str, str]
    history: History


def judge(
    received: Mapping[str, Mapping[str, ArrayRecord]],
    current: Mapping[str, ArrayRecord],
    history: History,
    bounds: Updates,
    filled: Mapping[str, Set[str]] = NONE,
) -> Verdict:
    """Which sites sent an update that is too large. ``received`` maps sites to groups, ``filled`` to those among them
    through which nothing real has passed.

    A group's norms are compared with their (lower) median where at least ``bounds.least`` sites hold it, else with the
    means of those that were taken from the sites before, of which the largest counts: a site that is seldom asked last
    sent what the model asked for then. Of a site of which none was taken, or where all are zero, the norm of the group
    itself takes their place. Sites at which the group saw only fills are no measure for others: what zeros make of an
    extractor may be next to nothing, and such sites may be the most. A strategy's own groups may be next to nothing
    while what a site makes of them is not: a control variate is zero at first, and small where the model has settled,
    before a site joins. There the median, of however few, or 1 is the least that a norm is compared with. What is fit
    is remembered where few sites hold the group.
    """
    if bounds.limit is None:
        return Verdict({}, history)
    norms = {
        group: {site: norm_of(groups[group], current[group]) for site, groups in received.items() if group in groups}
        for group in current
    }
    real = {
        group: {site: norm for site, norm in found.items() if group not in filled.get(site, ())}
        for group, found in norms.items()
    }
    faults: dict[str, str] = {}
    for group, found in sorted(norms.items()):
        measures = _Measures(group, real[group], current[group], history.get(group, {}), bounds)
        for site, norm in found.items():
            most, what = measures.of(site)
            if norm > bounds.limit * most:
                faults.setdefault(site, _words(group, norm, most, what, bounds.limit))
    return Verdict(faults, _remembered(real, faults, history, bounds.least))


class _Measures:
    """What a group's norms are compared with. ``found`` are those of the sites at which it saw real samples, ``known``
    the means of those that were taken before."""

    def __init__(
        self, group: str, found: Mapping[str, float], current: ArrayRecord, known: Mapping[str, float], bounds: Updates
    ) -> None:
        self._many, self._known = len(found) >= bounds.least, known
        self._own = (norm_of(current) or 1.0, "the norm of the group itself")
        middle = median_low(found.values()) if len(found) > 1 else 0.0
        self._middle = (middle, f"the median of {len(found)} sites")
        self._least = max(self._middle, OWN_LEAST) if group.startswith(STRATEGY_GROUPS) else NOTHING

    def of(self, site: str) -> tuple[float, str]:
        """The norm that the site's is compared with, and what that is."""
        before = (max(self._known.values()) if site in self._known else 0.0, "the largest mean of a site before")
        measure = self._middle if self._many else before
        return max(measure if measure[0] > 0 else self._own, self._least)


def _words(group: str, norm: float, most: float, what: str, limit: float) -> str:
    told = "raise updates.limit if that is to be expected"
    return f"{group}: an update of norm {norm:.3g}, more than {limit:g} times {most:.3g}, {what}; {told}"


def _remembered(
    norms: Mapping[str, Mapping[str, float]], faults: Mapping[str, str], history: History, least: int
) -> History:
    after = {group: dict(sites) for group, sites in history.items()}
    for group, found in norms.items():
        for site, norm in found.items() if len(found) < least else ():
            if site not in faults:
                known = after.setdefault(group, {})
                known[site] = MEMORY * norm + (1 - MEMORY) * known.get(site, norm)
    return after
