"""What every fusion promises. Each check takes a registered name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import FUSIONS
from fedrecon_core.task.model import Fusion, FusionShape
from fedrecon_core.task.tokens import Tokens

WIDTH, MODALITIES = 6, 3


def fusion_of(name: str, learned_weight: float | None = None) -> Fusion:
    """The fusion ``name`` with default keys."""
    with seeding.scope(0, name):
        cls: Any = FUSIONS.get(name)
        fusion: Fusion = cls(cls.Params(name=name), FusionShape(WIDTH, MODALITIES, learned_weight))
    return fusion.eval()


def tokens_of(size: int = 4) -> Tokens:
    """``size`` samples with five places: two modalities with one each, two of the third, one synthetic of the first;
    the last sample has nothing."""
    stream = torch.Generator().manual_seed(0)
    mask = torch.rand(size, 5, generator=stream) > 0.4
    mask[:, 0], mask[-1] = True, False
    return Tokens(
        values=torch.randn(size, 5, WIDTH, generator=stream),
        mask=mask,
        log_weight=torch.zeros(size, 5),
        modality=torch.tensor([0, 1, 2, 2, 0]),
        synthetic=torch.tensor([False, False, False, False, True]),
    )


def places(tokens: Tokens, order: Tensor) -> Tokens:
    """The places ``instruction`` of ``tokens``."""
    return Tokens(
        tokens.values[:, order],
        tokens.mask[:, order],
        tokens.log_weight[:, order],
        tokens.modality[order],
        tokens.synthetic[order],
    )


def check_params_have_valid_defaults_and_carry_the_name(name: str) -> None:
    params = FUSIONS.get(name).Params
    assert params().name == name
    with pytest.raises(ValidationError):
        params(**{"name": name, "no_such_key": 1})


def check_gives_one_vector_per_sample_and_zeros_where_nothing_is(name: str) -> None:
    fusion = fusion_of(name)
    fused = fusion(tokens_of())
    assert fused.shape == (4, fusion.outputs) and torch.isfinite(fused).all()
    assert fused[:-1].abs().sum(dim=1).min() > 0
    assert not fused[-1].any()


def check_no_place_at_all_gives_zeros(name: str) -> None:
    fusion = fusion_of(name)
    nothing = Tokens(
        torch.zeros(4, 0, 1), torch.zeros(4, 0).bool(), torch.zeros(4, 0), torch.zeros(0).long(), torch.zeros(0).bool()
    )
    assert torch.equal(fusion(nothing), torch.zeros(4, fusion.outputs))


def check_masked_tokens_are_never_seen(name: str) -> None:
    tokens, fusion = tokens_of(), fusion_of(name)
    other = torch.where(tokens.mask[..., None], tokens.values, torch.full((), 1e3))
    weight = torch.where(tokens.mask, tokens.log_weight, torch.full((), 5.0))
    assert torch.equal(fusion(replace(tokens, values=other, log_weight=weight)), fusion(tokens))


def check_samples_do_not_see_each_other(name: str) -> None:
    tokens, fusion = tokens_of(), fusion_of(name)
    half = Tokens(tokens.values[:2], tokens.mask[:2], tokens.log_weight[:2], tokens.modality, tokens.synthetic)
    assert torch.allclose(fusion(tokens)[:2], fusion(half), atol=1e-6)


def check_order_of_places_does_not_matter(name: str) -> None:
    tokens, fusion = tokens_of(), fusion_of(name)
    assert torch.allclose(fusion(places(tokens, torch.tensor([4, 2, 0, 3, 1]))), fusion(tokens), atol=1e-6)


def check_a_synthetic_token_of_weight_near_zero_is_as_good_as_none(name: str) -> None:
    tokens, fusion = tokens_of(), fusion_of(name)
    faint = replace(tokens, log_weight=torch.where(tokens.synthetic, -30.0, tokens.log_weight))
    without = replace(tokens, mask=tokens.mask & ~tokens.synthetic)
    assert torch.allclose(fusion(faint), fusion(without), atol=1e-5)


def check_tokens_and_parameters_learn(name: str) -> None:
    tokens, fusion = tokens_of(), fusion_of(name)
    values = tokens.values.clone().requires_grad_()
    fusion(replace(tokens, values=values)).square().sum().backward()
    assert values.grad is not None and (values.grad.abs().sum(dim=2)[tokens.mask] > 0).all()
    assert not values.grad[~tokens.mask].any()
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def check_a_learned_weight_is_taken_or_refused_by_name(name: str) -> None:
    try:
        fusion = fusion_of(name, learned_weight=-1.0)
    except ConfigError as error:
        assert name in str(error)
        return
    weighted = replace(tokens_of(), log_weight=torch.where(tokens_of().synthetic, -1.0, torch.zeros(4, 5)))
    plain = fusion_of(name)
    plain.load_state_dict(fusion.state_dict(), strict=False)
    assert torch.allclose(fusion(tokens_of()), plain(weighted), atol=1e-6), "it starts at the weight that it was given"


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]
