"""Log-likelihoods of an input under its decoder: summed over dimensions, one value per sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from fedrecon_core.modalities.base import length_mask
from fedrecon_core.types import Likelihood


def _gaussian(location: Tensor, values: Tensor, std: float) -> Tensor:
    return -0.5 * ((values - location) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def _laplace(location: Tensor, values: Tensor, std: float) -> Tensor:
    return -(values - location).abs() / std - math.log(2 * std)


def _bernoulli(location: Tensor, values: Tensor, std: float) -> Tensor:
    return -F.binary_cross_entropy_with_logits(location, values, reduction="none")


_DENSITIES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "gaussian": _gaussian,
    "laplace": _laplace,
    "bernoulli": _bernoulli,
}


def log_likelihood(likelihood: Likelihood, location: Tensor, values: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[R]: weight * log p(values given location), summed over the dimensions of each sample.

    ``location`` and ``values`` are [R, *shape]; behind a sequence's length nothing counts. ``bernoulli`` reads
    ``location`` as logits. A decoder that answers in full length is cut to the length of ``values``.
    """
    if lengths is not None:
        location = location[:, : values.shape[1]]
    density = _DENSITIES[likelihood.name](location, values, likelihood.std)
    if lengths is not None:
        density = density * length_mask(lengths, values.shape[1])[..., None]
    return likelihood.weight * density.flatten(1).sum(dim=1)


def mean_value(likelihood: Likelihood, location: Tensor) -> Tensor:
    """The mean of p(x given z) for the decoder's ``location``, in the space of the input."""
    return torch.sigmoid(location) if likelihood.name == "bernoulli" else location
