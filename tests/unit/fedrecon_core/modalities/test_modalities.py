"""Modality kinds: their networks, the recurrent extractor and its gradients, and sequences of different lengths."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fedrecon_core.config import Params, RunConfig
from fedrecon_core.errors import ConfigError
from fedrecon_core.modalities.base import ModalityKind
from fedrecon_core.modalities.recurrent import GRU, Halving, Recurrent, RecurrentExtractor
from fedrecon_core.modalities.sequence import Sequence, SequenceParams
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import DatasetSpec, Likelihood, ModalitySpec
from server.runs.setup import load_config
from tests.helpers.toy import toy_config

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "fedmultimodal"
SERIES = ModalitySpec(name="series", kind="sequence", shape=(21, 3))


def grown(module, *inputs, parameters=None):
    """Output, and the gradients of a weighted sum of it by inputs and parameters, in double precision."""
    found = module(*inputs)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    return found, torch.autograd.grad(
        (found * weights).sum(), [*inputs, *(module.parameters() if parameters is None else parameters)]
    )


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (5, 7), (16, 16)])
def test_the_gru_is_the_librarys_forwards_and_backwards(rows, steps):
    torch.manual_seed(0)
    ours, library = GRU(3, 4).double(), nn.GRU(3, 4, batch_first=True).double()
    library.load_state_dict(ours.state_dict())
    values = torch.randn(rows, steps, 3, dtype=torch.float64, requires_grad=True)
    expected, of_library = grown(library_output(library), values)
    found, of_ours = grown(ours, values)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(of_ours, of_library, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def library_output(gru):
    """The library's GRU with the same parameters, without its last hidden state."""

    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = gru

        def forward(self, values):
            return nn.GRU.forward(self.gru, values)[0]

    return Output()


def test_the_gru_gives_the_same_without_gradients_and_in_single_precision():
    torch.manual_seed(0)
    gru, values = GRU(32, 64), torch.randn(8, 50, 32) * 5
    trained = gru(values)
    with torch.inference_mode():
        assert torch.equal(gru(values), trained)
        expected = library_output(gru.double())(values.double())
    torch.testing.assert_close(trained.double(), expected, rtol=0, atol=2e-6)


def test_the_gru_takes_values_without_a_gradient():
    torch.manual_seed(0)
    gru = GRU(3, 4)
    gru(torch.randn(2, 5, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in gru.parameters())


class ChannelsLast(nn.Sequential):
    """The library's layers, which take [R, C, T], on [R, T, C]."""

    def forward(self, values):
        return super().forward(values.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("steps", [8, 9])
def test_halving_is_pooling_and_relu(steps):
    torch.manual_seed(0)
    values = torch.randn(3, steps, 4, dtype=torch.float64, requires_grad=True)
    library = ChannelsLast(nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True))
    for module in (Halving(0.5).eval(), Halving(0.0).train()):
        for found, expected in zip(*(grown(one, values) for one in (module, library)), strict=True):
            torch.testing.assert_close(found, expected)
    with torch.inference_mode():
        torch.testing.assert_close(Halving(0.5).eval()(values), library(values))


def test_halvings_dropout_keeps_the_mean_and_passes_gradients_where_it_passes_values():
    torch.manual_seed(0)
    values = torch.rand(50, 40, 20, requires_grad=True)
    full, halving = Halving(0.25).eval()(values), Halving(0.25).train()
    dropped = halving(values)
    assert 0.23 < float((dropped == 0).double().mean()) < 0.27
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], full[kept] / 0.75)
    dropped.sum().backward()
    assert torch.equal(values.grad.reshape(50, 20, 2, 20).sum(dim=2) != 0, kept)


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (1, 21), (4, 21), (16, 128)])
def test_the_extractor_is_the_librarys_layers_one_behind_the_other(rows, steps):
    torch.manual_seed(0)
    extractor = RecurrentExtractor(SERIES, Recurrent(convolutions=(4, 6)), 5).double().eval()
    first, second = extractor.convolutions
    pool = nn.MaxPool1d(2, ceil_mode=True)
    library = nn.Sequential(
        ChannelsLast(first, nn.ReLU(), pool, second, nn.ReLU(), pool), library_output(extractor.gru)
    )
    values = torch.randn(rows, steps, 3, dtype=torch.float64, requires_grad=True)
    expected = grown(library, values)
    found = grown(lambda given: extractor(given)[0], values, parameters=library.parameters())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("convolutions", [(), (4,), (4, 6, 8)])
def test_values_after_the_end_of_a_sequence_never_reach_a_token(convolutions):
    torch.manual_seed(0)
    extractor = RecurrentExtractor(SERIES, Recurrent(convolutions=convolutions), 5).eval()
    values, lengths = torch.randn(4, 21, 3), torch.tensor([21, 13, 8, 1])
    tokens, mask = extractor(values, lengths)
    behind = torch.arange(21)[None, :] >= lengths[:, None]
    other, _ = extractor(torch.where(behind[..., None], torch.full_like(values, 1e6), values), lengths)
    assert torch.equal(tokens[mask], other[mask])
    for row, length in enumerate(lengths.tolist()):
        alone, none = extractor(values[row : row + 1, :length], None)
        assert none is None
        torch.testing.assert_close(tokens[row][mask[row]], alone[0])


def test_every_part_of_the_extractor_learns():
    torch.manual_seed(0)
    extractor = RecurrentExtractor(SERIES, Recurrent(convolutions=(4, 6)), 5)
    extractor(torch.randn(4, 21, 3))[0].square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in extractor.parameters())


# --- the benchmark's models -----------------------------------------------------------------------------------------

BENCHMARK = {
    "uci_har_fedavg": (420_684, 6, {"acc": ("sequence", (128, 3)), "gyro": ("sequence", (128, 3))}),
    "meld": (528_426, 4, {"audio": ("sequence", (1000, 80)), "text": ("sequence", (64, 512))}),
    "crisismmd": (545_870, 8, {"image": ("vector", (1280,)), "text": ("sequence", (64, 512))}),
}


@pytest.mark.parametrize("name", BENCHMARK)
def test_the_configs_models_have_the_benchmarks_number_of_parameters(name):
    count, classes, shapes = BENCHMARK[name]
    modalities = tuple(ModalitySpec(name=m, kind=kind, shape=shape) for m, (kind, shape) in shapes.items())
    spec = DatasetSpec(name=name, modalities=modalities, classes=tuple(f"c{i}" for i in range(classes)))
    groups = recovery_for(load_config(CONFIGS / f"{name}.yaml"), spec).build()
    assert sum(p.numel() for module in groups.values() for p in module.parameters()) == count


def test_the_strategies_configs_differ_in_their_strategy_alone():
    configs = {path.stem: load_config(path) for path in CONFIGS.glob("uci_har_*.yaml")}
    assert set(configs) == {f"uci_har_{name}" for name in ("fedavg", "fedopt", "fedprox", "fedrs", "scaffold")}
    bare = [c.model_dump(exclude={"name", "strategy"}) for c in configs.values()]
    assert all(one == bare[0] for one in bare)
    assert {name.removeprefix("uci_har_") for name in configs} == {c.strategy.name for c in configs.values()}


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("modalities.sequence.extractor={dropout: 1}", "dropout"),
        ("modalities.sequence.only={text: {extractor: {convolution: [3]}}}", "only.text"),
        ("modalities.sequence={extractor: {dropout: 0.2}, normalise: true}", "modalities.sequence.normalise: expected"),
    ],
)
def test_a_wrong_key_is_named(setting, message):
    with pytest.raises(ConfigError) as error:
        load_config(CONFIGS / "uci_har_fedavg.yaml", [setting])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_keys_of_a_modality_that_the_data_lack_are_refused():
    config = load_config(CONFIGS / "uci_har_fedavg.yaml", ["modalities.sequence.only={sound: {generator: [8]}}"])
    spec = DatasetSpec(name="toy", modalities=(SERIES,), classes=("a", "b"))
    with pytest.raises(ConfigError, match=r"modalities\.sequence\.only: expected series, found sound"):
        recovery_for(config, spec)


def test_a_kind_whose_keys_know_no_single_modality_is_built():
    """A kind of somebody's own may carry plain ``Params``."""

    class PlainParams(Params):
        name: str = "plain_series"

    class PlainSeries(Sequence):
        Params = PlainParams

        def extractor(self, width):
            return torch.nn.Linear(self.spec.shape[1], width)

    MODALITIES.register("plain_series")(PlainSeries)
    try:
        plain = SERIES.model_copy(update={"kind": "plain_series"})
        spec = DatasetSpec(name="toy", modalities=(plain,), classes=("a", "b"))
        groups = recovery_for(load_config(CONFIGS / "uci_har_fedavg.yaml"), spec).build()
    finally:
        MODALITIES.forget("plain_series")
    assert groups["task.extractor.series"].in_features == 3


# --- modality kinds --------------------------------------------------------------------------------------------------


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
def test_values_after_the_end_of_a_sequence_change_nothing(which):
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


# --- the key ``normalise`` of sequences ------------------------------------------------------------------------------


STEPS, FEATURES, SEQUENCE_WIDTH = 20, 3, 6


def extractor(**keys) -> nn.Module:
    torch.manual_seed(0)
    params = SequenceParams(extractor=(4, 8), **keys)
    network = Sequence(params, ModalitySpec(name="m", kind="sequence", shape=(STEPS, FEATURES))).extractor(
        SEQUENCE_WIDTH
    )
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
