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
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST, PER_OCTAVE = -14, 6, 64
HALF = (HIGHEST - LOWEST) * PER_OCTAVE + 2
BINS = 2 * HALF


def histograms(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [C, 2, BINS]: for each class, the histogram of ``logits`` [N, C] of the samples without (0) and with (1)
    the class in ``labels`` (zeros and ones [N, C]). NaN counts as the lowest score."""
    classes, scores = logits.shape[1], _without_nan(logits)
    # Taking a number apart into mantissa and exponent is exact: no rounding moves a logit over a border.
    mantissa, exponent = np.frexp(np.abs(scores).clip(2.0 ** (LOWEST - 1), 2.0**HIGHEST))
    within = np.floor((2 * mantissa - 1) * PER_OCTAVE).astype(np.int64)
    distance = np.maximum(1 + (exponent.astype(np.int64) - 1 - LOWEST) * PER_OCTAVE + within, 0)
    bins = np.where(scores > 0, HALF + distance, HALF - 1 - distance)
    row = 2 * np.arange(classes) + labels
    return np.bincount((row * BINS + bins).ravel(), minlength=2 * classes * BINS).reshape(classes, 2, BINS)


def _without_nan(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """float64, with NaN as the lowest score."""
    scores = logits.astype(np.float64)
    scores[np.isnan(scores)] = -np.inf
    return scores


def confusion_matrices(counted: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 [C, 2, 2]: for each class, rows the truth (no, yes), columns the prediction at probability 0.5."""
    return np.asarray(counted.reshape(len(counted), 2, 2, HALF).sum(axis=-1))


def sparse(counted: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """The positions of the non-zero bins in the flattened histograms, ascending, and their counts."""
    flat = counted.ravel()
    places = flat.nonzero()[0]
    return places.tolist(), flat[places].tolist()


def dense(places: Sequence[int], counts: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The histograms int64 ``shape`` from the output of ``sparse``; impossible output is a ``ValueError``."""
    table = np.zeros(shape, dtype=np.int64)
    if len(places) != len(counts):
        raise ValueError(f"expected a count for each of {len(places)} bins of the histograms, found {len(counts)}")
    borders = (-1, *places, table.size)
    if any(second <= first for first, second in pairwise(borders)):
        raise ValueError(f"expected ascending bins of the histograms from 0 to {table.size - 1}, found others")
    if min(counts, default=1) < 1:
        raise ValueError(f"expected counts of at least 1 in the bins of the histograms, found {min(counts)}")
    table.reshape(-1)[np.array(places, dtype=np.int64)] = np.array(counts, dtype=np.int64)
    return table


def auroc(counted: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The area under the ROC curve, and a bound on its difference from the area of the exact scores: both float64 [K],
    for the K classes that have both positives and negatives, in order.

    The area is the share of pairs (positive, negative) in which the positive scores higher; a tie counts half (Mann
    and Whitney 1947). Pairs in different bins are ordered exactly; pairs in one bin count half, so that each is wrong
    by at most half a pair. The bound is reached if all of them are wrong in the same direction.
    """
    negative, positive = counted[:, 0], counted[:, 1]
    below = negative.cumsum(axis=1) - negative
    tied = (positive * negative).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    defined = pairs > 0
    won, tied, pairs = ((positive * below).sum(axis=1) + tied / 2)[defined], tied[defined], pairs[defined]
    return won / pairs, tied / 2 / pairs


def exact_auroc(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``auroc`` of the exact scores, ``logits`` [N, C] with ``labels`` (zeros and ones [N, C]); its bounds are 0."""
    areas = []
    for scores, positive in zip(_without_nan(logits).T, labels.T, strict=True):
        values, rank = np.unique(scores, return_inverse=True)  # one bin per distinct score
        counts = np.bincount(positive * len(values) + rank, minlength=2 * len(values))
        areas.append(auroc(counts.reshape(1, 2, len(values)))[0])
    area = np.concatenate(areas)
    return area, np.zeros_like(area)
