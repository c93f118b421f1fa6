"""Modality kinds: shapes, odd sizes, lengths, and independence of the rows of a batch."""

import pytest
import torch

from fedrecon_core.config import RunConfig
from fedrecon_core.modalities.base import ModalityKind
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import Likelihood, ModalitySpec
from tests.helpers.toy import toy_config

pytestmark = pytest.mark.quick

LATENT, WIDTH = 5, 6
SHAPES = {
    "image": [(1, 7, 9), (3, 16, 16), (1, 1, 1), (2, 5, 28)],
    "sequence": [(8, 3), (7, 1), (1, 2), (33, 4)],
    "vector": [(1,), (5,), (130,)],
}
EVERY_SHAPE = [(kind, shape) for kind, shapes in SHAPES.items() for shape in shapes]
CONFIG: RunConfig = toy_config()


def build(name: str, shape: tuple[int, ...], **params) -> ModalityKind:
    torch.manual_seed(0)
    cls = MODALITIES.get(name)
    keys = cls.Params(**{**CONFIG.modalities[name].model_dump(), **params})
    return cls(keys, ModalitySpec(name="m", kind=name, shape=shape, likelihood=Likelihood()))


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE)
def test_encoder_and_decoder_go_to_the_latent_and_back(name, shape):
    kind, values = build(name, shape), torch.rand(4, *shape)
    mean, log_variance = kind.encoder(LATENT)(values, None)
    assert mean.shape == log_variance.shape == (4, LATENT)
    assert kind.decoder(LATENT)(mean).shape == values.shape


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE)
def test_the_extractor_gives_tokens_of_the_asked_width(name, shape):
    tokens, mask = build(name, shape).extractor(WIDTH)(torch.rand(4, *shape), None)
    assert tokens.shape[0] == 4
    assert tokens.shape[1] >= 1
    assert tokens.shape[2] == WIDTH
    assert mask is None


@pytest.mark.parametrize("channels", [[], [4], [4, 8], [4, 8, 8]])
@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 8)])
def test_image_generators_fit_any_number_of_convolutions(channels, shape):
    kind = build("image", shape, generator=channels)
    mean, _ = kind.encoder(LATENT)(torch.rand(2, *shape), None)
    assert kind.decoder(LATENT)(mean).shape == (2, *shape)


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE)
def test_all_parameters_of_generator_and_extractor_learn(name, shape):
    kind, values = build(name, shape), torch.rand(4, *shape)
    encoder, decoder, extractor = kind.encoder(LATENT), kind.decoder(LATENT), kind.extractor(WIDTH)
    mean, log_variance = encoder(values, None)
    tokens, _ = extractor(values, None)
    (decoder(mean + log_variance).pow(2).sum() + tokens.pow(2).sum()).backward()
    for module in (encoder, decoder, extractor):
        assert all(p.grad is not None for p in module.parameters())


def networks(kind: ModalityKind):
    """Encoder and extractor as functions of rows alone to what a sample may see of them."""
    encoder, extractor = kind.encoder(LATENT), kind.extractor(WIDTH)

    def encode(values, lengths):
        return torch.cat(encoder(values, lengths), dim=1)

    def extract(values, lengths):
        tokens, mask = extractor(values, lengths)
        return (tokens if mask is None else tokens * mask[..., None]).flatten(1)

    return encode, extract


@pytest.mark.parametrize(("name", "shape"), EVERY_SHAPE)
@pytest.mark.parametrize("which", [0, 1])
def test_a_row_does_not_depend_on_the_others_of_its_batch(name, shape, which):
    network = networks(build(name, shape))[which]
    values = torch.rand(6, *shape)
    together = network(values, None)
    alone = torch.cat([network(values[row : row + 1], None) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_what_lies_behind_a_sequences_end_changes_nothing(which):
    network = networks(build("sequence", (9, 3)))[which]
    lengths = torch.tensor([1, 2, 5, 8, 9])
    values = torch.randn(5, 9, 3)
    noisy = values.clone()
    for row, length in enumerate(lengths):
        values[row, length:] = 0
        noisy[row, length:] = 1e3
    inside = torch.arange(9)[None, :] < lengths[:, None]
    assert not torch.equal(values, noisy)
    assert torch.equal(values[inside], noisy[inside])
    torch.testing.assert_close(network(values, lengths), network(noisy, lengths))


def test_a_sequence_is_encoded_the_same_alone_and_beside_longer_ones():
    kind = build("sequence", (9, 3))
    encoder, extractor = kind.encoder(LATENT), kind.extractor(WIDTH)
    lengths = torch.tensor([2, 9, 5])
    values = torch.randn(3, 9, 3)
    for row, length in enumerate(lengths):
        values[row, length:] = 0
    mean, _ = encoder(values, lengths)
    tokens, mask = extractor(values, lengths)
    for row, length in enumerate(lengths):
        short = values[row : row + 1, :length]
        alone, _ = encoder(short, lengths[row : row + 1])
        torch.testing.assert_close(alone[0], mean[row], rtol=1e-4, atol=1e-5)
        alone_tokens, alone_mask = extractor(short, lengths[row : row + 1])
        torch.testing.assert_close(alone_tokens[0][alone_mask[0]], tokens[row][mask[row]], rtol=1e-4, atol=1e-5)


def test_longer_sequences_have_more_tokens_and_every_sequence_has_one():
    _, mask = build("sequence", (16, 3), extractor=(4, 4)).extractor(WIDTH)(
        torch.randn(4, 16, 3), torch.tensor([1, 4, 5, 16])
    )
    assert mask.sum(dim=1).tolist() == [1, 1, 2, 4]


def test_a_full_length_sequence_is_the_same_with_and_without_its_length():
    encoder = build("sequence", (8, 3)).encoder(LATENT)
    values = torch.randn(4, 8, 3)
    torch.testing.assert_close(encoder(values, None)[0], encoder(values, torch.full((4,), 8))[0])


def test_networks_hold_no_buffers_that_would_average_badly():
    for name, shape in EVERY_SHAPE:
        kind = build(name, shape)
        for module in (kind.encoder(LATENT), kind.decoder(LATENT), kind.extractor(WIDTH)):
            assert list(module.buffers()) == []
