"""Generators and mapping losses against torch.distributions and NumPy."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Laplace, Normal
from torch.distributions import kl_divergence as reference_kl

from fedrecon_core.generators import (
    TERMS,
    Gaussian,
    Generator,
    Mapping,
    Pair,
    kl_divergence,
    kl_to_prior,
    log_likelihood,
    mean_value,
)
from fedrecon_core.modalities.base import LOG_VARIANCE_RANGE, GaussianHead, length_mask
from fedrecon_core.recovery.stage import set_frozen
from fedrecon_core.types import Likelihood, Rows

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def gaussian(rows: int = 5, width: int = 3) -> Gaussian:
    return Gaussian(torch.randn(rows, width), torch.randn(rows, width))


def normal(q: Gaussian) -> Normal:
    return Normal(q.mean, (0.5 * q.log_variance).exp())


# --- divergences ------------------------------------------------------------------------------------------------------


def test_kl_between_diagonal_normals():
    q, p = gaussian(), gaussian()
    torch.testing.assert_close(kl_divergence(q, p), reference_kl(normal(q), normal(p)).sum(-1))


def test_kl_to_the_prior():
    q = gaussian()
    torch.testing.assert_close(kl_to_prior(q), reference_kl(normal(q), Normal(0.0, 1.0)).sum(-1))


def test_kl_is_zero_at_equality_and_grows_with_the_distance():
    q = gaussian()
    further = Gaussian(q.mean + 1, q.log_variance)
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(5))
    assert (kl_divergence(further, q) > 0.01).all()


def test_kl_at_the_ends_of_the_range_of_variances():
    """Variances are e^a and e^b; float32 must not lose what float64 finds."""
    ends = torch.tensor([(a, b) for a in LOG_VARIANCE_RANGE for b in LOG_VARIANCE_RANGE])
    q, p = (Gaussian(torch.randn(4, 3), ends[:, [column]].expand(4, 3)) for column in (0, 1))
    exact = [Gaussian(d.mean.double(), d.log_variance.double()) for d in (q, p)]
    expected = reference_kl(normal(exact[0]), normal(exact[1])).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p).double(), expected, rtol=1e-5, atol=1e-5)
    prior = reference_kl(normal(exact[0]), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(kl_to_prior(q).double(), prior, rtol=1e-5, atol=1e-5)


def test_kl_pulls_as_the_reference_does():
    leaves = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    q, p = Gaussian(*leaves[:2]), Gaussian(*leaves[2:])
    found = torch.autograd.grad(kl_divergence(q, p).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(reference_kl(normal(q), normal(p)).sum(), leaves))
    found = torch.autograd.grad(kl_to_prior(q).sum(), leaves[:2])
    prior = reference_kl(normal(q), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(found, torch.autograd.grad(prior, leaves[:2]))


def test_samples_have_the_distributions_moments_and_carry_gradients():
    q = Gaussian(torch.tensor([[2.0, -1.0]]).expand(20000, 2), torch.tensor([[0.0, 1.0]]).expand(20000, 2))
    drawn = q.sample()
    torch.testing.assert_close(drawn.mean(0), torch.tensor([2.0, -1.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.tensor([1.0, math.exp(0.5)]), atol=0.05, rtol=0)
    mean, log_variance = torch.zeros(4, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)
    Gaussian(mean, log_variance).sample().pow(2).sum().backward()
    assert mean.grad.abs().sum() > 0
    assert log_variance.grad.abs().sum() > 0


# --- likelihoods ------------------------------------------------------------------------------------------------------


def reference(likelihood: Likelihood, location: torch.Tensor):
    if likelihood.name == "gaussian":
        return Normal(location, likelihood.std)
    if likelihood.name == "laplace":
        return Laplace(location, likelihood.std)
    return Bernoulli(logits=location)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "bernoulli"])
@pytest.mark.parametrize("weight", [1.0, 2.5])
@pytest.mark.parametrize("std", [1.0, 0.1])
def test_likelihoods_sum_over_the_dimensions_of_a_sample(name, weight, std):
    likelihood = Likelihood(name=name, std=std, weight=weight)
    location, values = torch.randn(4, 2, 3, 3), torch.rand(4, 2, 3, 3).round()
    expected = weight * reference(likelihood, location).log_prob(values).sum(dim=(1, 2, 3))
    torch.testing.assert_close(log_likelihood(likelihood, location, values), expected)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "bernoulli"])
def test_likelihoods_pull_as_the_reference_does(name):
    likelihood = Likelihood(name=name, std=0.3, weight=2.0)
    location, values = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.rand(4, 6).round().double()
    found = torch.autograd.grad(log_likelihood(likelihood, location, values).sum(), location)
    expected = torch.autograd.grad(2 * reference(likelihood, location).log_prob(values).sum(), location)
    torch.testing.assert_close(found, expected)


def test_a_bernoulli_of_extreme_logits_is_finite():
    likelihood, location = Likelihood(name="bernoulli"), torch.tensor([[200.0], [-200.0]])
    assert log_likelihood(likelihood, location, torch.tensor([[1.0], [1.0]])).tolist() == pytest.approx([0.0, -200.0])


@pytest.mark.parametrize("name", ["gaussian", "laplace", "bernoulli"])
def test_nothing_counts_behind_a_sequences_end(name):
    likelihood = Likelihood(name=name, std=0.5, weight=1.5)
    lengths = torch.tensor([1, 4, 2])
    location, values = torch.randn(3, 6, 2), torch.rand(3, 4, 2).round()  # the decoder answers in full length
    each = reference(likelihood, location[:, :4]).log_prob(values)
    expected = 1.5 * torch.stack([each[row, :length].sum() for row, length in enumerate(lengths)])
    torch.testing.assert_close(log_likelihood(likelihood, location, values, lengths), expected)


def test_the_decoders_answer_is_the_mean_in_the_space_of_the_input():
    location = torch.randn(3, 4)
    torch.testing.assert_close(mean_value(Likelihood(name="bernoulli"), location), Bernoulli(logits=location).mean)
    for name in ("gaussian", "laplace"):
        torch.testing.assert_close(mean_value(Likelihood(name=name), location), location)


def test_length_masks():
    found = length_mask(torch.tensor([0, 2, 3]), 3).int().tolist()
    assert found == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_log_variances_are_kept_in_range():
    head = GaussianHead(2, 3)
    _, log_variance = head(1e6 * torch.randn(8, 2))
    assert log_variance.min() >= LOG_VARIANCE_RANGE[0]
    assert log_variance.max() <= LOG_VARIANCE_RANGE[1]


# --- the ELBO ---------------------------------------------------------------------------------------------------------


class Coder(torch.nn.Module):
    """An encoder with an almost certain posterior, so that the ELBO has no noise to speak of."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(inputs, latent)

    def forward(self, values, lengths=None):
        mean = self.linear(values)
        return mean, torch.full_like(mean, -30.0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("likelihood", [Likelihood(std=0.5, weight=2.0), Likelihood(name="laplace", std=0.3)])
def test_the_loss_is_the_negative_elbo_averaged_over_the_rows(beta, likelihood):
    encoder, decoder = Coder(5, 2), torch.nn.Linear(2, 5)
    rows = Rows(torch.randn(7, 5), torch.arange(7))
    q = Gaussian(*encoder(rows.values))
    fit = likelihood.weight * reference(likelihood, decoder(q.mean)).log_prob(rows.values).sum(-1)
    expected = (beta * reference_kl(normal(q), Normal(0.0, 1.0)).sum(-1) - fit).mean()
    torch.testing.assert_close(Generator(encoder, decoder, likelihood).loss(rows, beta), expected, rtol=1e-4, atol=1e-3)


class Uncertain(torch.nn.Module):
    """An encoder with one given posterior."""

    def __init__(self, q: Gaussian) -> None:
        super().__init__()
        self.q = q

    def forward(self, values, lengths=None):
        return self.q.mean.expand(len(values), -1), self.q.log_variance.expand(len(values), -1)


def test_the_loss_of_an_uncertain_posterior_comes_to_its_closed_form():
    """E_q |x - Wz - b|^2 = |x - Wm - b|^2 + trace(W diag(v) W^T), mean and v those of q."""
    q, decoder, likelihood = gaussian(1, 2), torch.nn.Linear(2, 5), Likelihood(std=0.8)
    x = torch.randn(1, 5)
    with torch.no_grad():
        loss = Generator(Uncertain(q), decoder, likelihood).loss(Rows(x.expand(50_000, 5), torch.arange(50_000)))
        squares = ((x - decoder(q.mean)) ** 2).sum() + (decoder.weight**2 @ q.log_variance.exp().T).sum()
        fit = -0.5 * squares / 0.8**2 - 5 * (math.log(0.8) + 0.5 * math.log(2 * math.pi))
    expected = reference_kl(normal(q), Normal(0.0, 1.0)).sum() - fit
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)


def test_the_elbo_trains_encoder_and_decoder():
    encoder, decoder = Coder(5, 2), torch.nn.Linear(2, 5)
    Generator(encoder, decoder, Likelihood()).loss(Rows(torch.randn(7, 5), torch.arange(7))).backward()
    assert all(p.grad.abs().sum() > 0 for p in (*encoder.parameters(), *decoder.parameters()))


# --- mappings ---------------------------------------------------------------------------------------------------------


def pair(mapped: Gaussian, target: Gaussian, likelihood: Likelihood | None = None) -> Pair:
    decoder = torch.nn.Linear(3, 5)
    rows = Rows(torch.randn(len(target.mean), 5), torch.arange(len(target.mean)))
    generator = Generator(Coder(5, 3), decoder, likelihood or Likelihood())
    return Pair(mapped, target, target.sample(), lambda: rows, generator)


def test_forward_is_the_negative_log_density_of_the_target():
    found = pair(gaussian(), gaussian())
    expected = -normal(found.mapped).log_prob(found.sampled).sum(-1)
    torch.testing.assert_close(TERMS["forward"](found), expected)


def test_kl_is_the_reverse_divergence_of_the_paper():
    found = pair(gaussian(), gaussian())
    expected = reference_kl(normal(found.mapped), normal(found.target)).sum(-1)
    torch.testing.assert_close(TERMS["kl"](found), expected)


def test_moments_compare_means_and_standard_deviations():
    mapped, target = gaussian(), gaussian()
    expected = ((mapped.mean - target.mean) ** 2 + (normal(mapped).scale - normal(target).scale) ** 2).sum(-1)
    torch.testing.assert_close(TERMS["moments"](pair(mapped, target)), expected)


def test_reconstruction_is_the_negative_likelihood_of_the_target_through_its_decoder():
    certain = Gaussian(torch.randn(5, 3), torch.full((5, 3), -40.0))
    found = pair(certain, gaussian(), Likelihood(name="laplace", std=0.2, weight=3.0))
    density = Laplace(found.generator.decoder(certain.mean), 0.2).log_prob(found.rows().values)
    torch.testing.assert_close(TERMS["reconstruction"](found), -3.0 * density.sum(-1), rtol=1e-4, atol=1e-2)


def test_the_forward_loss_learns_the_spread_of_the_target_where_the_reverse_one_loses_it():
    """The reason for the default: z_n given z_m is spread by 1, each posterior by 0.1."""
    learned = {}
    for term in ("forward", "kl"):
        torch.manual_seed(1)
        log_variance = torch.zeros(1, 1, requires_grad=True)
        optimizer = torch.optim.Adam([log_variance], lr=0.1)
        for _ in range(400):
            target = Gaussian(torch.randn(128, 1), torch.full((128, 1), 2 * math.log(0.1)))
            mapped = Gaussian(torch.zeros(128, 1), log_variance.expand(128, 1))
            optimizer.zero_grad()
            TERMS[term](pair(mapped, target)).mean().backward()
            optimizer.step()
        learned[term] = (0.5 * log_variance).exp().item()
    assert learned["forward"] == pytest.approx(math.hypot(1, 0.1), rel=0.15)
    assert learned["kl"] == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 6)])
def test_a_mapping_gives_a_distribution_over_the_targets_latent(hidden):
    mapped = Mapping(4, 3, hidden)(torch.randn(6, 4))
    assert mapped.mean.shape == mapped.log_variance.shape == (6, 3)


@pytest.mark.parametrize("term", ["forward", "kl", "moments", "reconstruction"])
def test_every_term_trains_the_mapping_and_leaves_frozen_generators_alone(term):
    mapping, encoder, decoder = Mapping(4, 3, (8,)), Coder(5, 3), torch.nn.Linear(3, 5)
    set_frozen(encoder, True)
    set_frozen(decoder, True)
    rows = Rows(torch.randn(6, 5), torch.arange(6))
    target = Gaussian(*encoder(rows.values))
    generator = Generator(encoder, decoder, Likelihood())
    found = Pair(mapping(torch.randn(6, 4)), target, target.sample(), lambda: rows, generator)
    TERMS[term](found).mean().backward()
    assert sum(p.grad.abs().sum() for p in mapping.parameters()) > 0
    assert all(p.grad is None for p in (*encoder.parameters(), *decoder.parameters()))
