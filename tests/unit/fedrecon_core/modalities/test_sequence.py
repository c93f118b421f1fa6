"""The key ``normalise`` of sequences: what padding must not do, and what its absence leaves as it was."""

import pytest
import torch
from torch import nn

from fedrecon_core.modalities.sequence import Sequence, SequenceParams
from fedrecon_core.types import ModalitySpec

pytestmark = pytest.mark.quick

STEPS, FEATURES, WIDTH = 20, 3, 6


def extractor(**keys) -> nn.Module:
    torch.manual_seed(0)
    params = SequenceParams(extractor=(4, 8), **keys)
    network = Sequence(params, ModalitySpec(name="m", kind="sequence", shape=(STEPS, FEATURES))).extractor(WIDTH)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.rand_like(parameter)  # as after training: a fresh norm adds nothing
    return network


def names(network: nn.Module) -> set[str]:
    return set(network.state_dict())


def test_without_it_the_extractor_has_the_parameters_that_it_had():
    layers = {f"body.layers.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")}
    assert names(extractor()) == {*layers, "linear.weight", "linear.bias"}
    more = names(extractor(normalise=True)) - names(extractor())
    assert more == {f"body.norms.{number}.{part}" for number in (0, 1) for part in ("weight", "bias")}


def test_the_generator_is_not_concerned():
    spec = ModalitySpec(name="m", kind="sequence", shape=(STEPS, FEATURES))
    with_it, without = (Sequence(SequenceParams(normalise=value), spec) for value in (True, False))
    assert names(with_it.encoder(2)) == names(without.encoder(2))


@pytest.mark.parametrize("normalise", [False, True])
def test_padding_and_longer_neighbours_change_no_token(normalise):
    network, lengths = extractor(normalise=normalise), torch.tensor([1, 7, 12, 20])
    values = torch.randn(4, STEPS, FEATURES)
    tokens, mask = network(values, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, real = network(values[row : row + 1, :length], lengths[row : row + 1])
        assert bool(real.all())
        torch.testing.assert_close(alone[0], tokens[row][mask[row]], rtol=1e-4, atol=1e-5)


def test_normalised_channels_keep_their_size_whatever_the_input_has():
    sizes = {}
    for normalise in (False, True):
        body = extractor(normalise=normalise).body
        values = torch.randn(2, STEPS, FEATURES)
        small, large = (body(factor * values, None)[0].detach().std() for factor in (1, 100))
        sizes[normalise] = float(large / small)
    assert sizes[False] > 20 and sizes[True] < 3
