"""The recurrent extractor: its hand-written gradients against the library's operations, lengths, and the sizes of the
FedMultimodal benchmark's models."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fedrecon_core.config import Params
from fedrecon_core.errors import ConfigError
from fedrecon_core.modalities.recurrent import GRU, Halving, Recurrent, RecurrentExtractor
from fedrecon_core.modalities.sequence import Sequence
from fedrecon_core.recovery.base import recovery_for
from fedrecon_core.registry import MODALITIES
from fedrecon_core.types import DatasetSpec, ModalitySpec
from server.runs.setup import load_config

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


def test_the_gru_says_the_same_where_no_gradient_is_to_come_and_in_single_precision():
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
def test_what_lies_behind_an_end_never_reaches_a_token(convolutions):
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
    ("setting", "told"),
    [
        ("modalities.sequence.extractor={dropout: 1}", "dropout"),
        ("modalities.sequence.only={text: {extractor: {convolution: [3]}}}", "only.text"),
        ("modalities.sequence={extractor: {dropout: 0.2}, normalise: true}", "modalities.sequence.normalise: expected"),
    ],
)
def test_a_wrong_key_is_named(setting, told):
    with pytest.raises(ConfigError) as error:
        load_config(CONFIGS / "uci_har_fedavg.yaml", [setting])
    assert told in str(error.value) and "\n" not in str(error.value)


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
