"""Histograms of scores, from which sites together know their area under the ROC curve; and the area of scores at hand.

The bins follow the floating point numbers: on either side of 0 there are ``PER_OCTAVE`` bins of equal width between any
power of two and the next, from ``2**LOWEST`` to ``2**HIGHEST``, one for all logits nearer to 0 and one for all beyond.
So logits of any size are told apart to within 1/64 of themselves, be the model young (all near 0) or sure of itself.
The border between the halves is logit 0, which is probability 0.5: the answers at that threshold are the halves.

Histograms keep nothing back but the order: they tell, for each class, the logit of each sample to within a bin, with
its label. A site that sends them reveals that of its held-out samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

LOWEST, HIGHEST, PER_OCTAVE = -14, 6, 64
HALF = (HIGHEST - LOWEST) * PER_OCTAVE + 2
BINS = 2 * HALF


def histograms(logits: Tensor, labels: Tensor) -> Tensor:
    """int64 [C, 2, BINS], on the CPU, of ``logits`` [N, C] without (0) and with (1) each class of ``labels`` (zeros and
    ones [N, C]). What is no number counts as the lowest score."""
    classes = logits.shape[1]
    row = 2 * torch.arange(classes, device=logits.device) + labels
    counts = torch.bincount((row * BINS + _bins(_known(logits))).flatten(), minlength=2 * classes * BINS)
    return counts.reshape(classes, 2, BINS).cpu()


def _known(logits: Tensor) -> Tensor:
    return logits.double().nan_to_num(nan=-float("inf"), posinf=float("inf"), neginf=-float("inf"))


def _bins(logits: Tensor) -> Tensor:
    """Taking a number apart into mantissa and exponent is exact: no rounding moves a logit over a border."""
    mantissa, exponent = torch.frexp(logits.abs().clamp(2.0 ** (LOWEST - 1), 2.0**HIGHEST))
    within = ((2 * mantissa - 1) * PER_OCTAVE).floor().long()
    place = (1 + (exponent.long() - 1 - LOWEST) * PER_OCTAVE + within).clamp(min=0)
    return torch.where(logits > 0, HALF + place, HALF - 1 - place)


def answers(counted: Tensor) -> Tensor:
    """int64 [C, 2, 2]: for each class rows the truth (no, yes), columns the answer at probability 0.5."""
    return counted.reshape(len(counted), 2, 2, HALF).sum(dim=-1)


def sparse(counted: Tensor) -> tuple[list[int], list[int]]:
    """The places in the flat histograms that hold samples, ascending, and how many each of them holds."""
    flat = counted.flatten()
    places = flat.nonzero().flatten()
    return places.tolist(), flat[places].tolist()


def dense(places: Sequence[int], counts: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """The histograms int64 ``shape`` of which ``sparse`` told. Raises ``ValueError`` where it cannot have told this."""
    table = torch.zeros(shape, dtype=torch.int64)
    if len(places) != len(counts):
        raise ValueError(f"expected a count for each of {len(places)} bins of the histograms, found {len(counts)}")
    borders = (-1, *places, table.numel())
    if any(second <= first for first, second in pairwise(borders)):
        raise ValueError(f"expected ascending bins of the histograms from 0 to {table.numel() - 1}, found others")
    if min(counts, default=1) < 1:
        raise ValueError(f"expected counts of at least 1 in the bins of the histograms, found {min(counts)}")
    flat = table.view(-1)
    flat[torch.tensor(places, dtype=torch.int64)] = torch.tensor(counts, dtype=torch.int64)
    return table


def auroc(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Area under the ROC curve, and the most by which it may differ from that of the scores themselves, float64 [K],
    for the K classes that have both positives and negatives, in order.

    The area is the share of pairs (positive, negative) in which the positive scores higher; a tie counts half (Mann
    and Whitney 1947). Pairs in different bins are told apart exactly and those in one bin count half, so that each of
    the latter is wrong by at most half a pair. The bound is reached where all of them fall the same way.
    """
    negative, positive = counted[:, 0], counted[:, 1]
    below = negative.cumsum(dim=1) - negative
    tied = (positive * negative).sum(dim=1)
    pairs = positive.sum(dim=1) * negative.sum(dim=1)
    defined = pairs > 0
    won = (positive * below).sum(dim=1).double() + tied.double() / 2
    return (won / pairs)[defined], (tied.double() / 2 / pairs)[defined]


def exact_auroc(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``auroc`` of the scores themselves, ``logits`` [N, C] with ``labels`` (zeros and ones [N, C]): its bounds are
    0."""
    areas = [auroc(_ranked(*columns))[0] for columns in zip(_known(logits).T, labels.T, strict=True)]
    area = torch.cat(areas)
    return area, torch.zeros_like(area)


def _ranked(scores: Tensor, labels: Tensor) -> Tensor:
    """int64 [1, 2, R]: a histogram with a bin for each score that occurs, so that those in one bin are equal."""
    values, rank = scores.unique(return_inverse=True)
    counts = torch.bincount(labels * len(values) + rank, minlength=2 * len(values))
    return counts.reshape(1, 2, len(values))
