"""Fusion against plain Python in float64, and what token weights mean."""

import math
from dataclasses import replace

import pytest
import torch

from fedrecon_core.errors import ConfigError
from fedrecon_core.recovery.reconstruction import split_weight
from fedrecon_core.task.attention import Attention, AttentionParams, squash_
from fedrecon_core.task.concat import Concat, ConcatParams
from fedrecon_core.task.model import FusionShape
from fedrecon_core.task.tokens import Fill, Tokens, tokenise
from fedrecon_core.types import Batch, Rows

pytestmark = pytest.mark.quick

WIDTH, HEADS, MODALITIES = 5, 2, 3


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def attention(learned_weight: float | None = None, *, bias: bool = False) -> Attention:
    shape = FusionShape(WIDTH, MODALITIES, learned_weight)
    return Attention(AttentionParams(heads=HEADS, hidden=4, bias=bias), shape).double()


def concat() -> Concat:
    return Concat(ConcatParams(), FusionShape(WIDTH, MODALITIES)).double()


def tokens(size: int = 4, places: int = 6, synthetic=()) -> Tokens:
    """Random tokens; every sample has at least one."""
    mask = torch.rand(size, places) < 0.6
    mask[:, 0] = True
    return Tokens(
        values=torch.randn(size, places, WIDTH, dtype=torch.float64),
        mask=mask,
        log_weight=torch.randn(size, places, dtype=torch.float64),
        modality=torch.arange(places) % MODALITIES,
        synthetic=torch.tensor([place in synthetic for place in range(places)]),
    )


def by_loops(fusion: Attention, given: Tokens, bias=None) -> list[list[float]]:
    """u = tanh(W h + b), a = w exp(u c) / sum, one weighted sum per head; zeros where nothing is."""
    W, b = fusion.projection.weight.tolist(), fusion.projection.bias.tolist()
    contexts = fusion.context.weight.tolist()
    results = []
    for i in range(given.mask.shape[0]):
        places = [s for s in range(given.mask.shape[1]) if given.mask[i, s]]
        row = []
        for head, context in enumerate(contexts):
            scores = []
            for s in places:
                h = given.values[i, s].tolist()
                u = [
                    math.tanh(sum(w * x for w, x in zip(line, h, strict=True)) + o)
                    for line, o in zip(W, b, strict=True)
                ]
                extra = bias[int(given.modality[s])][head] if bias is not None and given.synthetic[s] else 0.0
                score = sum(x * c for x, c in zip(u, context, strict=True)) + extra
                scores.append(score + float(given.log_weight[i, s]))
            counts = [math.exp(score - max(scores)) for score in scores]
            for d in range(WIDTH):
                weighted = sum(a * float(given.values[i, s, d]) for a, s in zip(counts, places, strict=True))
                row.append(weighted / sum(counts) if places else 0.0)
        results.append(row)
    return results


@pytest.mark.parametrize("bias", [False, True])
def test_attention_equals_the_formula(bias):
    """A number more per head, which the formula leaves out, changes nothing. One sample has no token."""
    fusion, given = attention(bias=bias), tokens()
    given.mask[2] = False
    expected = torch.tensor(by_loops(fusion, given), dtype=torch.float64)
    torch.testing.assert_close(fusion(given), expected)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_attention_of_scores_of_any_size_equals_the_formula_in_single_precision(size):
    """exp(1000) is no float; a softmax must not need it."""
    fusion, given = attention(), tokens()
    with torch.no_grad():
        fusion.context.weight.mul_(size)
    given = replace(given, log_weight=(size * given.log_weight).float().double())
    expected = torch.tensor(by_loops(fusion.float(), single(given)), dtype=torch.float32)
    torch.testing.assert_close(fusion(single(given)), expected, rtol=1e-3, atol=1e-4)


def single(given: Tokens) -> Tokens:
    return replace(given, values=given.values.float(), log_weight=given.log_weight.float())


def test_attention_pulls_on_tokens_weights_and_bias_as_differences_do():
    fusion, given = attention(0.0), tokens(synthetic=(3, 4))
    given.mask[2] = False

    def fuse(values, log_weight, bias):
        fused = replace(given, values=values, log_weight=log_weight)
        return torch.func.functional_call(fusion, {"synthetic_bias": bias}, (fused,))

    leaves = [given.values, given.log_weight, torch.randn(MODALITIES, HEADS, dtype=torch.float64)]
    assert torch.autograd.gradcheck(fuse, [leaf.clone().requires_grad_() for leaf in leaves])


def test_tokens_of_some_modalities_alone_fuse_as_if_the_others_had_never_been():
    fusion, given = attention(), tokens()
    kept = torch.isin(given.modality, torch.tensor([0, 2]))
    without = Tokens(
        given.values[:, kept],
        given.mask[:, kept],
        given.log_weight[:, kept],
        given.modality[kept],
        given.synthetic[kept],
    )
    torch.testing.assert_close(fusion(given.of([0, 2])), fusion(without))
    assert not torch.allclose(fusion(given.of([0, 2])), fusion(given))


def test_a_learned_weight_is_a_bias_per_modality_and_head_of_synthetic_tokens():
    fusion, given = attention(math.log(0.5)), tokens(synthetic=(3, 4))
    torch.testing.assert_close(
        fusion.synthetic_bias, torch.full((MODALITIES, HEADS), math.log(0.5), dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    with torch.no_grad():
        fusion.synthetic_bias.copy_(torch.randn(MODALITIES, HEADS))
    expected = torch.tensor(by_loops(fusion, given, fusion.synthetic_bias.tolist()), dtype=torch.float64)
    torch.testing.assert_close(fusion(given), expected)


def test_a_learned_weight_starts_where_the_fixed_one_stands_and_trains():
    learned, given = attention(math.log(0.3)), tokens(synthetic=(1, 2, 5))
    fixed = attention()
    fixed.load_state_dict({k: v for k, v in learned.state_dict().items() if k != "synthetic_bias"})
    weighted = Tokens(
        given.values,
        given.mask,
        given.log_weight + math.log(0.3) * given.synthetic,
        given.modality,
        given.synthetic,
    )
    torch.testing.assert_close(learned(given), fixed(weighted), rtol=1e-5, atol=1e-6)
    learned(given).pow(2).sum().backward()
    assert learned.synthetic_bias.grad.abs().sum() > 0


@pytest.mark.parametrize("copies", [2, 3])
def test_a_token_of_weight_w_counts_like_w_copies_of_it(copies):
    fusion = attention()
    values = torch.randn(1, 2, WIDTH, dtype=torch.float64)
    repeated = torch.cat([values[:, :1], values[:, 1:].expand(1, copies, WIDTH)], dim=1)

    def fuse(stack, log_weight):
        places = stack.shape[1]
        mask, zeros = torch.ones(1, places, dtype=torch.bool), torch.zeros(places, dtype=torch.long)
        return fusion(Tokens(stack, mask, torch.tensor([log_weight], dtype=torch.float64), zeros, zeros.bool()))

    torch.testing.assert_close(fuse(values, [0.0, math.log(copies)]), fuse(repeated, [0.0] * (copies + 1)))


@pytest.mark.parametrize("make", [attention, concat])
def test_a_sample_without_any_token_gives_zeros_and_finite_gradients(make):
    fusion, given = make(), tokens()
    given.mask[1] = False
    given.values.requires_grad_()
    fused = fusion(given)
    assert torch.equal(fused[1], torch.zeros_like(fused[1]))
    assert fused[0].abs().sum() > 0
    fused.pow(2).sum().backward()
    assert torch.isfinite(given.values.grad).all()


@pytest.mark.parametrize("make", [attention, concat])
def test_a_batch_without_any_place_gives_zeros(make):
    none = torch.zeros(3, 0)
    places = torch.zeros(0, dtype=torch.long)
    fusion = make()
    assert torch.equal(
        fusion(Tokens(none[..., None], none.bool(), none, places, places.bool())), torch.zeros(3, fusion.outputs)
    )


@pytest.mark.parametrize("make", [attention, concat])
def test_what_a_masked_place_holds_changes_nothing(make):
    fusion, given = make(), tokens()
    before = fusion(given)
    given.values[~given.mask] = 1e6
    given.log_weight[~given.mask] = 50.0
    torch.testing.assert_close(fusion(given), before)


@pytest.mark.parametrize("make", [attention, concat])
def test_samples_do_not_depend_on_their_order(make):
    fusion, given = make(), tokens()
    order = torch.tensor([2, 0, 3, 1])
    moved = Tokens(given.values[order], given.mask[order], given.log_weight[order], given.modality, given.synthetic)
    torch.testing.assert_close(fusion(moved), fusion(given)[order])


@pytest.mark.parametrize("make", [attention, concat])
def test_places_do_not_depend_on_their_order(make):
    fusion, given = make(), tokens(synthetic=(1,))
    order = torch.randperm(6)
    moved = Tokens(
        given.values[:, order],
        given.mask[:, order],
        given.log_weight[:, order],
        given.modality[order],
        given.synthetic[order],
    )
    torch.testing.assert_close(fusion(moved), fusion(given))


def test_concat_is_the_weighted_mean_of_each_modality_side_by_side():
    given = tokens()
    fused = concat()(given).view(4, MODALITIES, WIDTH)
    for i in range(4):
        for m in range(MODALITIES):
            places = [s for s in range(6) if s % MODALITIES == m and given.mask[i, s]]
            weights = [math.exp(given.log_weight[i, s]) for s in places]
            expected = sum((w * given.values[i, s] for w, s in zip(weights, places, strict=True)), torch.zeros(WIDTH))
            torch.testing.assert_close(fused[i, m], (expected / sum(weights) if places else expected).double())


def test_concat_cannot_learn_weights_and_names_the_keys_at_fault():
    with pytest.raises(ConfigError, match=r"recovery.weighting: 'learned' needs task.fusion: attention, found concat"):
        Concat(ConcatParams(), FusionShape(WIDTH, MODALITIES, learned_weight=0.0))


# --- tokens -----------------------------------------------------------------------------------------------------------


class Echo(torch.nn.Module):
    """An extractor whose token is the vector itself."""

    def forward(self, values, lengths=None):
        return values.unsqueeze(1), None


def batch_of(present: list[list[bool]]) -> Batch:
    shown = torch.tensor(present)
    names = ("a", "b")
    inputs = {}
    for column, name in enumerate(names):
        index = torch.nonzero(shown[:, column]).flatten()
        inputs[name] = Rows(torch.randn(len(index), WIDTH), index)
    size = len(present)
    return Batch(inputs, shown, torch.zeros(size, dtype=torch.long), torch.arange(size))


def fill(slot: str, index: list[int], values: torch.Tensor, weight: float = 1.0) -> Fill:
    return Fill("b", slot, Rows(values, torch.tensor(index)), torch.full((len(index),), weight))


EXTRACTORS = {"a": Echo(), "b": Echo()}


def test_present_rows_and_fills_find_their_samples():
    batch = batch_of([[True, True], [True, False], [False, True]])
    made = torch.randn(1, WIDTH)
    found = tokenise(EXTRACTORS, ("a", "b"), batch, [fill("global", [1], made, weight=0.25)])
    by_modality = {
        name: [s for s in range(found.mask.shape[1]) if found.modality[s] == c] for c, name in enumerate("ab")
    }
    assert [len(by_modality[name]) for name in "ab"] == [1, 2]
    real, synthetic = by_modality["b"] if not found.synthetic[by_modality["b"][0]] else reversed(by_modality["b"])
    assert found.mask[:, by_modality["a"][0]].tolist() == [True, True, False]
    assert found.mask[:, real].tolist() == [True, False, True]
    assert found.mask[:, synthetic].tolist() == [False, True, False]
    torch.testing.assert_close(found.values[1, synthetic], made[0])
    torch.testing.assert_close(found.values[[0, 2], real], batch.inputs["b"].values)
    assert found.log_weight[1, synthetic].item() == pytest.approx(math.log(0.25))
    assert found.log_weight[:, real].tolist() == [0.0, 0.0, 0.0]


def test_a_modality_without_its_extractor_gives_no_token():
    found = tokenise({"a": Echo()}, ("a", "b"), batch_of([[True, True]]), [fill("x", [0], torch.randn(1, WIDTH))])
    assert found.modality.tolist() == [0]


def test_a_batch_of_nothing_has_no_places():
    assert tokenise(EXTRACTORS, ("a", "b"), batch_of([[False, False]] * 2), []).mask.shape == (2, 0)


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_two_equal_reconstructions_weigh_together_what_one_weighs_alone(weight):
    """Training has a global and a local one, evaluation the global one alone: the total must not change."""
    fusion = Attention(AttentionParams(heads=HEADS, hidden=4), FusionShape(WIDTH, 2))
    batch = batch_of([[True, True], [True, False], [True, False]])
    made = torch.randn(2, WIDTH)
    one = split_weight([fill("global", [1, 2], made)], ("a", "b"), 3, weight)
    two = split_weight([fill("global", [1, 2], made), fill("local", [1, 2], made)], ("a", "b"), 3, weight)
    fused = [fusion(tokenise(EXTRACTORS, ("a", "b"), batch, fills)) for fills in (one, two)]
    torch.testing.assert_close(*fused)
    without = fusion(tokenise(EXTRACTORS, ("a", "b"), batch, []))
    assert not torch.allclose(without[1:], fused[0][1:])
    torch.testing.assert_close(without[0], fused[0][0])


def test_weight_is_shared_per_sample_and_modality():
    first, second = fill("global", [0, 1], torch.randn(2, WIDTH)), fill("local", [1, 2], torch.randn(2, WIDTH))
    shared = split_weight([first, second], ("a", "b"), 3, 0.6)
    assert shared[0].weight.tolist() == pytest.approx([0.6, 0.3])
    assert shared[1].weight.tolist() == pytest.approx([0.3, 0.6])


# --- the hyperbolic tangent of the fusion ----------------------------------------------------------------------------


def test_the_error_is_below_what_is_stated():
    grid = torch.cat(
        [torch.linspace(-20, 20, 400_001), torch.logspace(-30, 38, 100_000), -torch.logspace(-30, 38, 100_000)]
    )
    error = (squash_(grid.clone()).double() - grid.double().tanh()).abs()
    assert float(error.max()) < 2e-7


def test_ends_and_what_is_no_number():
    found = squash_(torch.tensor([float("inf"), -float("inf"), 0.0, float("nan")]))
    assert found[:3].tolist() == [1.0, -1.0, 0.0] and found[3].isnan()


def test_the_gradient_is_the_librarys():
    torch.manual_seed(0)
    values, weights = torch.randn(40, dtype=torch.float64, requires_grad=True), torch.randn(40, dtype=torch.float64)
    (found,) = torch.autograd.grad((squash_(values * 3) * weights).sum(), values)
    (expected,) = torch.autograd.grad(((values * 3).tanh() * weights).sum(), values)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(lambda given: squash_(given * 2), values)


def test_what_is_read_after_it_and_needs_what_it_wrote_over_is_refused():
    values = torch.randn(4, requires_grad=True).square()
    squares = values * values
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (squash_(values) + squares).sum().backward()
