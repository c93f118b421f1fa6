"""The generator G_m of one modality: a VAE, its objective (Eq. 3 of the FedRecon paper) and its two directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedrecon_core.modalities.likelihood import log_likelihood, mean_value
from fedrecon_core.types import Likelihood, Rows


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal distribution over a latent: ``mean`` and ``log_variance``, each [R, Z]."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        """[R, Z]: one reparametrised draw per row, from the global generator."""
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
