"""Integer histograms of scores, from which sites together know their area under the ROC curve and send no score.

A histogram counts logits in ``BINS`` bins of width ``WIDTH`` around 0, open below and closed above; the outermost ones
hold all that lies beyond. The border between the halves is logit 0, which is probability 0.5: so the answers at that
threshold are the histogram's halves.
"""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 1024
WIDTH = 1 / 32
"""A power of two, so that no rounding moves a logit over a border."""


def histograms(logits: Tensor, labels: Tensor) -> Tensor:
    """int64 [C, 2, BINS], on the CPU, of ``logits`` [N, C] without (0) and with (1) each class of ``labels`` (zeros and
    ones [N, C]). What is no number counts as the lowest score."""
    classes = logits.shape[1]
    known = logits.double().nan_to_num(nan=-float("inf"), posinf=float("inf"), neginf=-float("inf"))
    place = ((known / WIDTH).ceil() + (BINS // 2 - 1)).clamp(0, BINS - 1).long()
    row = 2 * torch.arange(classes, device=logits.device) + labels
    counts = torch.bincount((row * BINS + place).flatten(), minlength=2 * classes * BINS)
    return counts.reshape(classes, 2, BINS).cpu()


def answers(counted: Tensor) -> Tensor:
    """int64 [C, 2, 2]: for each class rows the truth (no, yes), columns the answer at probability 0.5."""
    return counted.reshape(len(counted), 2, 2, BINS // 2).sum(dim=-1)


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
