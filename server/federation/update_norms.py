"""Reject very large updates: one that is finite and well-formed can still outweigh the updates of all other sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from statistics import median_low
from types import MappingProxyType

import numpy as np

from fedrecon_core.config import Updates
from fedrecon_core.state import STRATEGY_GROUPS, State

MEMORY = 0.5
"""Weight of a site's latest norm in its running mean."""
LEAST_OF_EXTRA_GROUP, NO_LEAST = (1.0, "the lower bound for additional groups of the strategy"), (0.0, "")
"""Lower bounds of the reference norm, for the strategy's additional groups and for all others."""
NONE: Mapping[str, Set[str]] = MappingProxyType({})
History = dict[str, dict[str, float]]
"""Group -> site -> running mean of the norms of its accepted updates, for groups that few sites have."""


def norm_of(group: State, start: State | None = None) -> float:
    """The L2 norm of a group, or of its difference from ``start``, in float64."""
    total = 0.0
    for name in sorted(group):
        values = group[name].numpy()
        change = np.subtract(values, 0 if start is None else start[name].numpy(), dtype=np.float64).ravel()
        total += float(change @ change)
    return math.sqrt(total)


@dataclass(frozen=True)
class Verdict:
    """``faults``: site -> what is wrong with its update; ``history``: the new history if this attempt is accepted."""

    faults: dict[str, str]
    history: History


def judge(
    received: Mapping[str, Mapping[str, State]],
    current: Mapping[str, State],
    history: History,
    bounds: Updates,
    filled: Mapping[str, Set[str]] = NONE,
) -> Verdict:
    """Find the sites whose update is too large. ``received`` maps sites to groups, ``filled`` maps sites to those of
    their groups that were trained on fills only.

    An update is too large if its norm exceeds ``bounds.limit`` times a reference norm. If at least ``bounds.least``
    sites have the group, that is the (lower) median over them. Otherwise it is the largest running mean of all sites,
    since the last update of a site that is rarely sampled is from an earlier stage of training. If the site has no
    running mean, or the reference is zero, it is the norm of the group itself. Sites that trained the group on fills
    only do not count towards a reference: their updates may be tiny, and they may be the majority.

    For the strategy's additional groups the reference is at least 1, and at least the median of any number of sites: a
    control variate is zero at first and small once training has converged, so that the first update of a late site is
    far larger. Norms of accepted updates are recorded for groups that few sites have.
    """
    if bounds.limit is None:
        return Verdict({}, history)
    faults: dict[str, str] = {}
    real: dict[str, dict[str, float]] = {}
    for group in sorted(current):
        norms = {site: norm_of(groups[group], current[group]) for site, groups in received.items() if group in groups}
        real[group] = {site: norm for site, norm in norms.items() if group not in filled.get(site, ())}
        known = history.get(group, {})
        median = (
            median_low(real[group].values()) if len(real[group]) > 1 else 0.0,
            f"the median of {len(real[group])} sites",
        )
        own = (norm_of(current[group]) or 1.0, "the norm of the group itself")
        least = max(median, LEAST_OF_EXTRA_GROUP) if group.startswith(STRATEGY_GROUPS) else NO_LEAST
        for site, norm in norms.items():
            before = (max(known.values()) if site in known else 0.0, "the largest running mean of a site")
            found = median if len(real[group]) >= bounds.least else before
            reference, what = max(found if found[0] > 0 else own, least)
            if norm > bounds.limit * reference:
                faults.setdefault(
                    site,
                    f"{group}: an update of norm {norm:.3g}, more than {bounds.limit:g} times {reference:.3g}, {what}; "
                    "raise updates.limit if such updates are expected",
                )
    after = {group: dict(sites) for group, sites in history.items()}
    for group, norms in real.items():
        for site, norm in norms.items() if len(norms) < bounds.least else ():
            if site not in faults:
                means = after.setdefault(group, {})
                means[site] = MEMORY * norm + (1 - MEMORY) * means.get(site, norm)
    return Verdict(faults, after)
