"""Reconstructions: which routes count, how sources combine, and when there is no token at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedrecon_core import seeding
from fedrecon_core.generators import Gaussian
from fedrecon_core.recovery.fills import CACHE_BYTES, SiteFills
from fedrecon_core.recovery.reconstruction import LEAST_TEMPER, Reconstructor, find_routes, split_weight
from fedrecon_core.recovery.stage import GlobalInfo, LocalContext
from fedrecon_core.recovery.uniform import uniform_noise
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.seeding import torch_stream
from fedrecon_core.state import decoder_group, encoder_group, mapping_group
from fedrecon_core.types import Batch, DatasetSpec, Likelihood, ModalitySpec, Rows
from tests.helpers.contract_support import gaps, seasoned
from tests.helpers.toy import NAMES as TOYS
from tests.helpers.toy import NAMES as TOY_NAMES
from tests.helpers.toy import MemoryStore, everything, tiny_dataset, toy_recovery, toy_site

pytestmark = pytest.mark.quick

NAMES = ("a", "b", "c")
WIDTH = 2


def generators(*names: str) -> set[str]:
    return {group(name) for name in names for group in (encoder_group, decoder_group)}


def routes(*usable: str, chain: bool = True) -> dict:
    steps = {mapping_group(*step.split(">")) for step in usable}
    return find_routes(NAMES, lambda group: group in steps | generators(*NAMES), chain)


# --- routes -----------------------------------------------------------------------------------------------------------


def test_a_direct_mapping_is_a_route_of_one_step():
    assert routes("a>b") == {("a", "b"): (mapping_group("a", "b"),)}


def test_a_chain_leads_where_no_direct_mapping_does():
    found = routes("a>b", "b>c")
    assert found["a", "c"] == (mapping_group("a", "b"), mapping_group("b", "c"))
    assert ("a", "c") not in routes("a>b", "b>c", chain=False)


def test_the_direct_mapping_beats_the_chain():
    assert routes("a>b", "b>c", "a>c")["a", "c"] == (mapping_group("a", "c"),)


def test_nothing_trained_means_no_route():
    assert routes() == {}
    assert find_routes(NAMES, lambda group: False, True) == {}


@pytest.mark.parametrize(
    ("untrained", "lost"),
    [(encoder_group("a"), {("a", "b"), ("a", "c")}), (decoder_group("c"), {("a", "c"), ("b", "c")})],
)
def test_a_route_needs_its_sources_encoder_and_its_targets_decoder(untrained, lost):
    usable = generators(*NAMES) | {mapping_group("a", "b"), mapping_group("b", "c")}
    found = find_routes(NAMES, lambda group: group in usable - {untrained}, True)
    assert set(found) == {("a", "b"), ("b", "c"), ("a", "c")} - lost


def test_a_chain_passes_a_modality_whose_own_generator_is_not_here():
    """Only latents travel through b: neither its encoder nor its decoder is needed."""
    usable = {encoder_group("a"), decoder_group("c"), mapping_group("a", "b"), mapping_group("b", "c")}
    assert set(find_routes(NAMES, lambda group: group in usable, True)) == {("a", "c")}


# --- combining sources ------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    def forward(self, values, lengths=None):
        return values, torch.zeros_like(values)


class Shift(nn.Module):
    """T(z) = N(z + offset, variance)."""

    def __init__(self, offset: float, variance) -> None:
        super().__init__()
        self.offset, self.variance = offset, torch.as_tensor(variance, dtype=torch.float32)

    def forward(self, z) -> Gaussian:
        return Gaussian(z + self.offset, self.variance.log().expand_as(z))


MAPPINGS = {"a>c": Shift(1.0, [0.5, 2.0]), "b>c": Shift(-3.0, [1.0, 0.25]), "a>b": Shift(10.0, 1.0)}


def maker(sources: str = "product", quality: dict | None = None, usable=("a>c", "b>c")) -> Reconstructor:
    spec = DatasetSpec(
        name="toy", classes=("x",), modalities=tuple(ModalitySpec(name=n, kind="vector", shape=(WIDTH,)) for n in NAMES)
    )
    groups = {mapping_group(*step.split(">")): module for step, module in MAPPINGS.items()}
    for name in NAMES:
        groups[encoder_group(name)], groups[decoder_group(name)] = Encoder(), nn.Identity()
    scores = {mapping_group(*step.split(">")): score for step, score in (quality or {}).items()}
    return Reconstructor(spec, groups, dict.fromkeys(NAMES, Likelihood()), routes(*usable), scores, sources)


def batch_of(rows: list[str]) -> Batch:
    """A batch whose samples have the modalities that their words name."""
    torch.manual_seed(0)
    present = torch.tensor([[name in row for name in NAMES] for row in rows])
    inputs = {}
    for column, name in enumerate(NAMES):
        index = torch.nonzero(present[:, column]).flatten()
        inputs[name] = Rows(torch.randn(len(index), WIDTH), index)
    return Batch(inputs, present, torch.zeros(len(rows), dtype=torch.long), torch.arange(len(rows)))


def value(batch: Batch, name: str, sample: int) -> np.ndarray:
    rows = batch.inputs[name]
    return rows.values[rows.index.tolist().index(sample)].double().numpy()


def of(fills, name: str) -> list:
    return [fill for fill in fills if fill.modality == name]


@pytest.mark.parametrize("quality", [{}, {"a>c": 0.9, "b>c": 0.3}, {"a>c": 0.0, "b>c": 1.0}])
def test_product_is_the_tempered_product_of_gaussians(quality):
    batch = batch_of(["ab", "a", "b", "abc"])
    (fill,) = of(maker("product", quality).fills(batch, "global"), "c")
    assert fill.rows.index.tolist() == [0, 1, 2]
    temper = {step: max(quality.get(step, 1.0), LEAST_TEMPER) for step in ("a>c", "b>c")}
    strength_a, strength_b = temper["a>c"] / np.array([0.5, 2.0]), temper["b>c"] / np.array([1.0, 0.25])
    mean_a, mean_b = value(batch, "a", 0) + 1, value(batch, "b", 0) - 3
    both = (strength_a * mean_a + strength_b * mean_b) / (strength_a + strength_b)
    expected = np.stack([both, value(batch, "a", 1) + 1, value(batch, "b", 2) - 3])
    np.testing.assert_allclose(fill.rows.values.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("quality", "best"), [({"a>c": 0.9, "b>c": 0.3}, "a"), ({"a>c": 0.2, "b>c": 0.3}, "b")])
def test_best_takes_the_source_of_the_highest_quality_alone(quality, best):
    batch = batch_of(["ab", "a", "b"])
    (fill,) = of(maker("best", quality).fills(batch, "global"), "c")
    shift = {"a": 1, "b": -3}
    expected = np.stack([value(batch, name, i) + shift[name] for i, name in enumerate([best, "a", "b"])])
    np.testing.assert_allclose(fill.rows.values.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_each_gives_one_reconstruction_per_source():
    batch = batch_of(["ab", "a", "b"])
    fills = {fill.slot: fill for fill in of(maker("each").fills(batch, "local"), "c")}
    assert {slot: fill.rows.index.tolist() for slot, fill in fills.items()} == {"local/a": [0, 1], "local/b": [0, 2]}
    np.testing.assert_allclose(fills["local/b"].rows.values[1].numpy(), value(batch, "b", 2) - 3, rtol=1e-5, atol=1e-5)
    shared = split_weight(list(fills.values()), NAMES, 3, 1.0)
    assert {fill.slot: fill.weight.tolist() for fill in shared} == {"local/a": [0.5, 1.0], "local/b": [0.5, 1.0]}


def test_a_chain_hands_the_mean_on_and_multiplies_the_qualities():
    chained = maker(usable=("a>b", "b>c"), quality={"a>b": 0.5, "b>c": 0.4})
    batch = batch_of(["a"])
    (fill,) = of(chained.fills(batch, "x"), "c")
    np.testing.assert_allclose(fill.rows.values[0].numpy(), value(batch, "a", 0) + 10 - 3, rtol=1e-5)
    assert chained.score(chained.routes["a", "c"]) == pytest.approx(0.2)


@pytest.mark.parametrize("sources", ["product", "best", "each"])
def test_present_modalities_and_empty_samples_are_not_filled(sources):
    assert of(maker(sources).fills(batch_of(["abc", "ac", ""]), "global"), "c") == []


@pytest.mark.parametrize("sources", ["product", "best", "each"])
def test_without_routes_there_are_no_fills(sources):
    assert maker(sources, usable=()).fills(batch_of(["ab", "a"]), "global") == []


def test_bernoulli_reconstructions_are_probabilities():
    plain = maker()
    made = replace(plain, likelihoods=dict.fromkeys(NAMES, Likelihood(name="bernoulli")))
    batch = batch_of(["a"])
    logits, means = (of(m.fills(batch, "x"), "c")[0].rows.values for m in (plain, made))
    torch.testing.assert_close(means, torch.sigmoid(logits))


# --- when FedRecon makes tokens ---------------------------------------------------------------------------------------

ALL_TRAINED = 100


def trained(recovery, *, but: str = "") -> dict[str, int]:
    return {name: 0 if name == but else ALL_TRAINED for name in recovery.builders()}


def picture_only(recovery):
    """A batch of samples that lack everything but the picture, and all groups."""
    present = everything(48)
    present[:, 1:] = False
    return toy_site(present=present).batch(torch.arange(4)), recovery.build()


def kinds(fills) -> list[tuple[str, str]]:
    return sorted((fill.modality, fill.slot) for fill in fills)


def test_evaluation_reconstructs_what_is_absent_from_trained_groups():
    recovery = toy_recovery()
    batch, groups = picture_only(recovery)
    fills = recovery.recover(batch, groups, GlobalInfo(1, trained(recovery)))
    assert kinds(fills) == [("features", "global"), ("steps", "global")]
    for fill in fills:
        assert fill.synthetic
        assert fill.weight.tolist() == [1.0] * 4


@pytest.mark.parametrize(("round_", "expected"), [(1, 0), (2, 0), (3, 2)])
def test_warm_up_rounds_make_no_tokens(round_, expected):
    recovery = toy_recovery({"name": "fedrecon", "warmup_rounds": 2})
    batch, groups = picture_only(recovery)
    assert len(recovery.recover(batch, groups, GlobalInfo(round_, trained(recovery)))) == expected


def test_untrained_groups_give_no_token():
    recovery = toy_recovery()
    batch, groups = picture_only(recovery)
    assert recovery.recover(batch, groups, GlobalInfo(5, dict.fromkeys(recovery.builders(), 0))) == []
    assert recovery.recover(batch, groups, GlobalInfo(5, {})) == []
    without_encoder = trained(recovery, but=encoder_group("picture"))
    assert recovery.recover(batch, groups, GlobalInfo(5, without_encoder)) == []
    without_decoder = trained(recovery, but=decoder_group("steps"))
    assert kinds(recovery.recover(batch, groups, GlobalInfo(5, without_decoder))) == [("features", "global")]


@pytest.mark.parametrize(("chain", "expected"), [(True, ["features", "steps"]), (False, ["steps"])])
def test_an_untrained_mapping_is_bypassed_only_by_chains(chain, expected):
    recovery = toy_recovery({"name": "fedrecon", "chain": chain})
    batch, groups = picture_only(recovery)
    counts = trained(recovery, but=mapping_group("picture", "features"))
    assert [m for m, _ in kinds(recovery.recover(batch, groups, GlobalInfo(1, counts)))] == expected


def test_weight_zero_makes_no_generators_and_no_tokens():
    recovery = toy_recovery({"name": "fedrecon", "weight": 0.0})
    assert set(recovery.builders()) == set(toy_recovery("mask").builders())
    for held in ((), ("picture",), TOYS):
        assert recovery.plan(held) == toy_recovery("mask").plan(held)
    batch, groups = picture_only(recovery)
    assert recovery.recover(batch, groups, GlobalInfo(5, trained(recovery))) == []


def late_context(recovery, *, trained_here=(), store=None, round_=1, groups=None, counts=None) -> LocalContext:
    """A site that lacks features and steps for half of its samples, after its first two stages."""
    present = everything(48)
    present[::2, 1:] = False
    site = toy_site(present=present)
    plan = recovery.plan(site.modalities)
    everything_built = recovery.build() if groups is None else groups
    held = {name: everything_built[name] for name in plan.download}
    global_info = GlobalInfo(round_, trained(recovery) if counts is None else counts)
    return LocalContext(
        groups=held,
        data=site,
        global_info=global_info,
        stream=lambda purpose: torch_stream(0, purpose),
        received=recovery.freeze(held, plan, global_info, store or MemoryStore()),
        trained_here=dict.fromkeys(trained_here, 10),
    )


def filled(recovery, context: LocalContext):
    return kinds(recovery.recover_locally(context.data.batch(torch.arange(8)), context))


GLOBAL = [("features", "global"), ("steps", "global")]


def test_the_local_path_uses_only_mappings_trained_in_this_round():
    recovery = toy_recovery({"name": "fedrecon", "chain": False})
    assert filled(recovery, late_context(recovery)) == GLOBAL
    one = late_context(recovery, trained_here=[mapping_group("picture", "steps")])
    assert filled(recovery, one) == [*GLOBAL, ("steps", "local")]


def test_two_reconstructions_share_the_weight():
    recovery = toy_recovery({"name": "fedrecon", "weight": 0.5})
    context = late_context(recovery, trained_here=[mapping_group("picture", "steps")])
    fills = recovery.recover_locally(context.data.batch(torch.arange(8)), context)
    assert {fill.weight[0].item() for fill in of(fills, "features")} == {0.5}
    assert {fill.weight[0].item() for fill in of(fills, "steps")} == {0.25}
    assert len(of(fills, "steps")) == 2


def test_a_learned_weight_is_left_to_the_fusion():
    recovery = toy_recovery({"name": "fedrecon", "weight": 0.5, "weighting": "learned"})
    batch, groups = picture_only(recovery)
    fills = recovery.recover(batch, groups, GlobalInfo(1, trained(recovery)))
    assert {fill.weight[0].item() for fill in fills} == {1.0}
    bias = groups["task.head"].fusion.synthetic_bias
    assert torch.allclose(bias, torch.tensor(0.5).log())


def test_without_freezing_there_is_only_the_local_path():
    recovery = toy_recovery({"name": "fedrecon", "ggfs": {"enabled": False}, "chain": False})
    assert filled(recovery, late_context(recovery)) == []
    mapped = late_context(recovery, trained_here=[mapping_group("picture", "steps")])
    assert filled(recovery, mapped) == [("steps", "local")]
    assert mapped.received == {}


def test_frozen_groups_do_not_follow_the_trained_ones():
    recovery = toy_recovery()
    context = late_context(recovery)
    name = encoder_group("picture")
    before = [p.clone() for p in context.received[name].parameters()]
    with torch.no_grad():
        for parameter in context.groups[name].parameters():
            parameter.add_(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, context.received[name].parameters(), strict=True))


def test_untrained_groups_are_not_frozen():
    recovery = toy_recovery()
    counts = trained(recovery, but=encoder_group("picture"))
    assert encoder_group("picture") not in late_context(recovery, counts=counts).received


@pytest.mark.parametrize(("refresh", "keeps"), [("round", False), ("deployment", True)])
def test_what_is_frozen_is_this_rounds_or_the_first(refresh, keeps):
    recovery = toy_recovery({"name": "fedrecon", "ggfs": {"refresh": refresh}})
    store, groups = MemoryStore(), recovery.build()
    name = encoder_group("picture")
    late_context(recovery, store=store, groups=groups)
    first = next(groups[name].parameters()).detach().clone()
    with torch.no_grad():
        for parameter in groups[name].parameters():
            parameter.add_(1.0)
    second = late_context(recovery, store=store, groups=groups, round_=2)
    frozen = next(second.received[name].parameters())
    assert torch.equal(frozen, first if keeps else first + 1)
    assert filled(recovery, second) == GLOBAL


def test_deployment_freezes_nothing_during_warm_up():
    recovery = toy_recovery({"name": "fedrecon", "warmup_rounds": 2, "ggfs": {"refresh": "deployment"}})
    store = MemoryStore()
    late_context(recovery, store=store, round_=2)
    assert store.kept == {}
    late_context(recovery, store=store, round_=3)
    assert set(store.kept) == {"frozen"}


def test_reconstruct_all_pairs_present_modalities_with_their_own_reconstruction():
    recovery = toy_recovery({"name": "fedrecon", "reconstruct": "all"})
    batch, groups = picture_only(recovery)
    fills = recovery.recover(batch, groups, GlobalInfo(1, trained(recovery)))
    assert kinds(fills) == [*GLOBAL[:1], ("picture", "global/self"), *GLOBAL[1:]]


# --- the fills of a site ---------------------------------------------------------------------------------------------


class Site:
    """A site with gaps, and the fills of a recovery for them, counted."""

    def __init__(self, name: str = "fedrecon") -> None:
        self.recovery = toy_recovery(name)
        self.data = toy_site(tiny_dataset(), gaps(48, len(TOY_NAMES)), sealed=self.recovery.reads_absent)
        self.groups = self.recovery.build()
        self.global_info: GlobalInfo = seasoned(self.recovery, self.data)
        self.calls = 0

    def recover(self, batch):
        self.calls += 1
        return self.recovery.recover(batch, self.groups, self.global_info)


@pytest.fixture
def site():
    return Site()


@pytest.mark.parametrize("name", RECOVERIES.names())
def test_every_recovery_fills_a_sample_alike_in_every_epoch_kept_or_not(name):
    site = Site(name)
    kept, anew = SiteFills(site.recover, site.data), SiteFills(site.recover, site.data, limit=0)
    for order in ([40, 3, 7, 21], [7, 40], [3]):
        index = torch.tensor(order)
        batch = site.data.batch(index)
        stored, made = kept.of(index, batch), anew.of(index, batch)
        made = [fill for fill in made if len(fill.rows.index)]
        stored = [fill for fill in stored if len(fill.rows.index)]
        assert [(fill.modality, fill.slot) for fill in stored] == [(fill.modality, fill.slot) for fill in made]
        for mine, theirs in zip(stored, made, strict=True):
            assert torch.equal(mine.rows.index, theirs.rows.index)
            longest = theirs.rows.values.shape[1]  # kept sequences may have more zeros behind their ends
            torch.testing.assert_close(mine.rows.values[:, :longest], theirs.rows.values)
            assert not mine.rows.values[:, longest:].any()
    assert bool(kept.filled) == (name != "mask")


def test_uniform_noise_is_uniform_and_depends_on_key_id_and_place():
    ids = torch.tensor([0, 1, 2, -1, 2**40, 2**40 + 1, 2**62])
    noise = uniform_noise(7, ids, 20_000)
    assert float(noise.min()) >= 0 and float(noise.max()) < 1
    histogram = torch.stack([torch.histc(row, 20, 0, 1) for row in noise])
    chi2 = ((histogram - 1000) ** 2 / 1000).sum(dim=1)
    assert float(chi2.max()) < 55  # 19 degrees of freedom: p = 2e-5
    together = torch.cat([noise, noise.roll(1, dims=1), uniform_noise(8, ids, 20_000)])
    correlation = torch.corrcoef(together) - torch.eye(len(together))
    assert float(correlation.abs().max()) < 5 / 20_000**0.5
    assert torch.equal(uniform_noise(7, ids[[4, 2]], 20_000), noise[[4, 2]])
    assert torch.equal(uniform_noise(7, ids, 10), noise[:, :10])


def test_uniform_draws_anew_in_another_stage():
    site, index = Site("uniform"), torch.arange(48)
    found = []
    for number in (1, 1, 2):
        with seeding.scope(0, "stage", number):
            found.append(SiteFills(site.recover, site.data).of(index, site.data.batch(index))[0].rows.values)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_fills_that_do_not_fit_are_made_anew_and_are_the_same(site):
    kept, anew = SiteFills(site.recover, site.data), SiteFills(site.recover, site.data, limit=100)
    assert kept.filled.keys() == anew.filled.keys() == set(TOY_NAMES)
    for name in TOY_NAMES:
        assert torch.equal(kept.filled[name], anew.filled[name])
        assert torch.equal(kept.filled[name], site.data.arrays[name].rows < 0)
    index = torch.tensor([40, 3, 7, 21])
    batch, before = site.data.batch(index), site.calls
    stored, made = kept.of(index, batch), anew.of(index, batch)
    assert site.calls == before + 1
    assert len(stored) == len(made) > 0
    for mine, theirs in zip(stored, made, strict=True):
        assert (mine.modality, mine.slot, mine.synthetic) == (theirs.modality, theirs.slot, theirs.synthetic)
        assert torch.equal(mine.rows.index, theirs.rows.index)
        torch.testing.assert_close(mine.rows.values, theirs.rows.values)
        torch.testing.assert_close(mine.weight, theirs.weight)


def test_no_more_than_the_limit_is_kept(site):
    whole = sum(fill.values.nbytes for fill in SiteFills(site.recover, site.data, limit=CACHE_BYTES).stored)
    assert SiteFills(site.recover, site.data, limit=whole).stored is not None
    assert SiteFills(site.recover, site.data, limit=whole - 1).stored is None
