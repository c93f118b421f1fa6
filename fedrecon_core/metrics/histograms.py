"""Histograms of scores, from which the area under the ROC curve over all sites is computed; and the exact area.

The bins follow the floating point numbers: on either side of 0, ``PER_OCTAVE`` bins of equal width between each power
of two and the next, from ``2**LOWEST`` to ``2**HIGHEST``, one bin for all logits nearer to 0 and one for all beyond. So
logits are distinguished to within 1/64 of their size, whether the model is untrained (all near 0) or very confident.
The border between the halves is logit 0, which is probability 0.5: the predictions at this threshold are the halves.

Histograms hide little more than the order of samples: for each class they give the logit of each sample to within a
bin, with its label. A site that sends them reveals that about its held-out samples.
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
    """int64 [C, 2, BINS], on the CPU: for each class, the histogram of ``logits`` [N, C] of the samples without (0) and
    with (1) the class in ``labels`` (zeros and ones [N, C]). NaN counts as the lowest score."""
    classes, scores = logits.shape[1], _without_nan(logits)
    # Taking a number apart into mantissa and exponent is exact: no rounding moves a logit over a border.
    mantissa, exponent = torch.frexp(scores.abs().clamp(2.0 ** (LOWEST - 1), 2.0**HIGHEST))
    within = ((2 * mantissa - 1) * PER_OCTAVE).floor().long()
    distance = (1 + (exponent.long() - 1 - LOWEST) * PER_OCTAVE + within).clamp(min=0)
    bins = torch.where(scores > 0, HALF + distance, HALF - 1 - distance)
    row = 2 * torch.arange(classes, device=logits.device) + labels
    counts = torch.bincount((row * BINS + bins).flatten(), minlength=2 * classes * BINS)
    return counts.reshape(classes, 2, BINS).cpu()


def _without_nan(logits: Tensor) -> Tensor:
    """float64, with NaN as the lowest score."""
    return logits.double().nan_to_num(nan=-float("inf"), posinf=float("inf"), neginf=-float("inf"))


def confusion_matrices(counted: Tensor) -> Tensor:
    """int64 [C, 2, 2]: for each class, rows the truth (no, yes), columns the prediction at probability 0.5."""
    return counted.reshape(len(counted), 2, 2, HALF).sum(dim=-1)


def sparse(counted: Tensor) -> tuple[list[int], list[int]]:
    """The positions of the non-zero bins in the flattened histograms, ascending, and their counts."""
    flat = counted.flatten()
    places = flat.nonzero().flatten()
    return places.tolist(), flat[places].tolist()


def dense(places: Sequence[int], counts: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """The histograms int64 ``shape`` from the output of ``sparse``; impossible output is a ``ValueError``."""
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
    """The area under the ROC curve, and a bound on its difference from the area of the exact scores: both float64 [K],
    for the K classes that have both positives and negatives, in order.

    The area is the share of pairs (positive, negative) in which the positive scores higher; a tie counts half (Mann
    and Whitney 1947). Pairs in different bins are ordered exactly; pairs in one bin count half, so that each is wrong
    by at most half a pair. The bound is reached if all of them are wrong in the same direction.
    """
    negative, positive = counted[:, 0], counted[:, 1]
    below = negative.cumsum(dim=1) - negative
    tied = (positive * negative).sum(dim=1)
    pairs = positive.sum(dim=1) * negative.sum(dim=1)
    defined = pairs > 0
    won = (positive * below).sum(dim=1).double() + tied.double() / 2
    return (won / pairs)[defined], (tied.double() / 2 / pairs)[defined]


def exact_auroc(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``auroc`` of the exact scores, ``logits`` [N, C] with ``labels`` (zeros and ones [N, C]); its bounds are 0."""
    areas = []
    for scores, positive in zip(_without_nan(logits).T, labels.T, strict=True):
        values, rank = scores.unique(return_inverse=True)  # one bin per distinct score
        counts = torch.bincount(positive * len(values) + rank, minlength=2 * len(values))
        areas.append(auroc(counts.reshape(1, 2, len(values)))[0])
    area = torch.cat(areas)
    return area, torch.zeros_like(area)
