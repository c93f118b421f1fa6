"""Log-likelihoods of an input under its decoder: summed over dimensions, one value per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.modalities.base import length_mask
from fedrecon_core.types import Likelihood


def log_likelihood(likelihood: Likelihood, location: Tensor, values: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[R]: weight * log p(values given location), summed over the dimensions of each sample.

    ``location`` and ``values`` are [R, *shape]; values after a sequence's end do not count. For ``bernoulli``,
    ``location`` are logits. The output of a decoder, which has the full length, is cut to the length of ``values``.
    """
    if lengths is not None:
        location = location[:, : values.shape[1]]
    std = likelihood.std
    if likelihood.name == "gaussian":
        density = -0.5 * ((values - location) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
    elif likelihood.name == "laplace":
        density = -(values - location).abs() / std - math.log(2 * std)
    else:
        density = -F.binary_cross_entropy_with_logits(location, values, reduction="none")
    if lengths is not None:
        density = density * length_mask(lengths, values.shape[1])[..., None]
    return likelihood.weight * density.flatten(1).sum(dim=1)


def mean_value(likelihood: Likelihood, location: Tensor) -> Tensor:
    """The mean of p(x given z) for the decoder's ``location``, in the space of the input."""
    return torch.sigmoid(location) if likelihood.name == "bernoulli" else location
