"""The generators of the modalities (VAEs), the log-likelihoods of their decoders, and the mapping models between their
latents.

The generator G_m of a modality is trained with Eq. 3 of the FedRecon paper. The mapping model T[m->n] goes from a
latent of modality m to a normal distribution over the latent of modality n. The paper trains it with alpha * KL(T(z_m)
|| z_n) + reconstruction (Eq. 5). Its KL pulls the variance of T to that of a single posterior, so samples are close to
means. The default here is the forward direction, the negative log-likelihood of z_n under T: its variance is the real
spread of z_n given z_m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedrecon_core.modalities.base import GaussianHead, length_mask
from fedrecon_core.types import Likelihood, Rows


def log_likelihood(likelihood: Likelihood, location: Tensor, values: Tensor, lengths: Tensor | None = None) -> Tensor:
    """[R]: weight * log p(values given location), summed over the dimensions of each sample.

    ``location`` and ``values`` are [R, *shape]; values after a sequence's end are ignored. For ``bernoulli``,
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


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution over a latent: ``mean`` and ``log_variance``, each [R, Z]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        """[R, Z]: one reparametrized draw per row, from the global generator."""
        return self.mean + torch.exp(0.5 * self.log_variance) * torch.randn_like(self.mean)

    def __getitem__(self, rows: Tensor) -> Gaussian:
        """The rows ``rows`` (int64 or bool)."""
        return Gaussian(self.mean[rows], self.log_variance[rows])


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """[R]: KL(q || p) of diagonal normals, in nats, summed over the latent's dimensions."""
    ratio = torch.exp(q.log_variance - p.log_variance)
    distance = (q.mean - p.mean) ** 2 * torch.exp(-p.log_variance)
    return 0.5 * (p.log_variance - q.log_variance + ratio + distance - 1).sum(dim=-1)


def kl_to_prior(q: Gaussian) -> Tensor:
    """[R]: KL(q || N(0, I)) in nats (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (q.log_variance.exp() + q.mean**2 - 1 - q.log_variance).sum(dim=-1)


@dataclass(frozen=True)
class Generator:
    """Encoder and decoder of one modality with its likelihood; the modules belong to two parameter groups."""

    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def encode(self, rows: Rows) -> Gaussian:
        """q(z given x) for each row."""
        return Gaussian(*self.encoder(rows.values, rows.lengths))

    def decode(self, z: Tensor) -> Tensor:
        """[R, *shape]: the mean of p(x given z)."""
        return mean_value(self.likelihood, self.decoder(z))

    def loss(self, rows: Rows, beta: float = 1.0) -> Tensor:
        """Negative ELBO, mean over the rows: -E_q[log p(x given z)] + beta * KL(q || N(0, I)), Eq. 3 at ``beta`` 1."""
        posterior = self.encode(rows)
        location = self.decoder(posterior.sample())
        fit = log_likelihood(self.likelihood, location, rows.values, rows.lengths)
        return (beta * kl_to_prior(posterior) - fit).mean()


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
