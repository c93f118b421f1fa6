"""The mapping model T[m->n]: from a latent of modality m to a normal distribution over the latent of modality n.

The paper trains it with alpha * KL(T(z_m) || z_n) + reconstruction (Eq. 5). Its KL pulls the variance of T to that of a
single posterior, so samples equal means. The default here is the forward direction, the negative log-likelihood of
z_n under T: its variance is the real spread of z_n given z_m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from fedrecon_core.generators.vae import Gaussian, Generator, kl_divergence
from fedrecon_core.modalities.base import GaussianHead
from fedrecon_core.modalities.likelihood import log_likelihood
from fedrecon_core.types import Rows


class Mapping(nn.Module):
    """MLP with LayerNorm and GELU after each hidden layer, as in the paper's released mapping network, and a head for
    mean and log-variance."""

    def __init__(self, source: int, target: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((source, *hidden)):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.head = GaussianHead(hidden[-1] if hidden else source, target)

    def forward(self, z: Tensor) -> Gaussian:
        """z_m [R, Z_m] -> the distribution over z_n."""
        return Gaussian(*self.head(self.body(z)))


@dataclass(frozen=True)
class Pair:
    """Inputs of a mapping loss, for a batch of samples that have both modalities.

    ``mapped`` is T(z_m), ``target`` q(z_n given x_n), ``sampled`` a draw from it, ``rows`` x_n itself, ``generator``
    the frozen generator of n.
    """

    mapped: Gaussian
    target: Gaussian
    sampled: Tensor
    rows: Callable[[], Rows]
    generator: Generator


def forward_kl(pair: Pair) -> Tensor:
    """[R]: -log T(z_n), z_n drawn from q(z_n given x_n): KL(q || T) up to a constant in T."""
    mean, log_variance = pair.mapped.mean, pair.mapped.log_variance
    squared = (pair.sampled - mean) ** 2 * (-log_variance).exp()
    return 0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(dim=-1)


def reverse_kl(pair: Pair) -> Tensor:
    """[R]: KL(T(z_m) || q(z_n given x_n)), the first term of the paper's Eq. 5."""
    return kl_divergence(pair.mapped, pair.target)


def reconstruction(pair: Pair) -> Tensor:
    """[R]: -log p(x_n given T(z_m)) through the frozen decoder, the second term of Eq. 5."""
    rows = pair.rows()
    location = pair.generator.decoder(pair.mapped.sample())
    return -log_likelihood(pair.generator.likelihood, location, rows.values, rows.lengths)


def moments(pair: Pair) -> Tensor:
    """[R]: squared distance of means and of standard deviations (appendix E of the paper)."""
    spread = (0.5 * pair.mapped.log_variance).exp() - (0.5 * pair.target.log_variance).exp()
    return ((pair.mapped.mean - pair.target.mean) ** 2 + spread**2).sum(dim=-1)


TERMS: dict[str, Callable[[Pair], Tensor]] = {
    "forward": forward_kl,
    "kl": reverse_kl,
    "reconstruction": reconstruction,
    "moments": moments,
}
"""The terms that a mapping loss is a weighted sum of; ``paper`` is ``kl`` with weight alpha plus ``reconstruction``."""
