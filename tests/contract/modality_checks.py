"""What every modality kind promises. Each check takes a registered name.

A kind is tried on the first of ``SHAPES`` that it takes, and, if that is a (T, D), with sequences of different lengths.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fedrecon_core import seeding
from fedrecon_core.modalities.base import LOG_VARIANCE_RANGE, ModalityKind
from fedrecon_core.registry import MODALITIES
from fedrecon_core.state import read_group, write_group
from fedrecon_core.types import ModalitySpec

SHAPES = ((2, 7, 9), (7, 3), (5,))
LATENT, WIDTH = 3, 6
PARTS = ("encoder", "decoder", "extractor")


def built(name: str, part: str, shape: tuple[int, ...] | None = None) -> nn.Module:
    """The encoder, decoder or extractor of the kind ``name``, with default keys."""
    with seeding.scope(0, name, part):
        cls: Any = MODALITIES.get(name)
        spec = ModalitySpec(name="toy", kind=name, shape=shape or shape_of(name))
        kind: ModalityKind = cls(cls.Params(name=name), spec)
        module: nn.Module = getattr(kind, part)(WIDTH if part == "extractor" else LATENT)
    return module.eval()


@functools.cache
def shape_of(name: str) -> tuple[int, ...]:
    """The first shape that the kind builds networks for and reads."""
    for shape in SHAPES:
        try:
            built(name, "encoder", shape)(torch.rand(2, *shape), None)
        except Exception:
            continue
        return shape
    raise AssertionError(f"modality kind {name} takes none of the shapes {SHAPES}")


def values(name: str, rows: int) -> Tensor:
    """Some input, the same every time."""
    return torch.rand(rows, *shape_of(name), generator=torch.Generator().manual_seed(0))


def check_params_have_valid_defaults_and_carry_the_name(name: str) -> None:
    params = MODALITIES.get(name).Params
    assert params().name == name
    with pytest.raises(ValidationError):
        params(**{"name": name, "no_such_key": 1})


def check_encoder_gives_mean_and_bounded_log_variance(name: str) -> None:
    for scale in (1.0, 1e4):
        mean, log_variance = built(name, "encoder")(scale * values(name, 4), None)
        assert mean.shape == log_variance.shape == (4, LATENT)
        assert torch.isfinite(mean).all()
        assert LOG_VARIANCE_RANGE[0] <= log_variance.min() and log_variance.max() <= LOG_VARIANCE_RANGE[1]


def check_decoder_gives_the_shape_of_a_sample(name: str) -> None:
    assert built(name, "decoder")(torch.randn(4, LATENT)).shape == (4, *shape_of(name))


def check_extractor_gives_tokens_of_the_asked_width(name: str) -> None:
    tokens, mask = built(name, "extractor")(values(name, 4), None)
    assert tokens.dim() == 3 and tokens.shape[0] == 4 and tokens.shape[2] == WIDTH
    assert mask is None or (mask.dtype == torch.bool and mask.shape == tokens.shape[:2] and mask.any(dim=1).all())


def check_rows_do_not_see_each_other(name: str) -> None:
    rows = values(name, 4)
    for part in PARTS:
        module, given = built(name, part).train(), torch.randn(4, LATENT) if part == "decoder" else rows
        buffers = {key for key, _ in module.named_buffers()}
        assert not buffers, f"{part}: buffers such as running statistics average badly: {buffers}"
        assert torch.allclose(_first(module, given)[:2], _first(module, given[:2]), atol=1e-5), part


def _first(module: nn.Module, rows: Tensor) -> Tensor:
    made = module(rows) if rows.shape[1:] == (LATENT,) else module(rows, None)
    found: Tensor = made[0] if isinstance(made, tuple) else made
    return found


def check_every_parameter_learns(name: str) -> None:
    encoder, decoder, extractor = (built(name, part) for part in PARTS)
    mean, log_variance = encoder(values(name, 4), None)
    decoded = decoder(mean + log_variance.exp())
    (decoded.square().mean() + extractor(values(name, 4), None)[0].square().mean()).backward()
    for module in (encoder, decoder, extractor):
        for key, parameter in module.named_parameters():
            assert parameter.dtype == torch.float32, key
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


def check_groups_can_be_read_and_written(name: str) -> None:
    for part in PARTS:
        module = built(name, part)
        state = {key: tensor + 1 for key, tensor in read_group(module).items()}
        write_group(module, state)
        assert all(torch.equal(tensor, state[key]) for key, tensor in read_group(module).items())


def check_padding_behind_a_sequence_is_never_seen(name: str) -> None:
    shape = shape_of(name)
    if len(shape) != 2:
        return
    short = values(name, 3)[:, :4]
    padded = torch.cat([short, torch.zeros(3, shape[0] - 4, shape[1])], dim=1)
    lengths = torch.tensor([4, 2, 1])
    short = short * (torch.arange(4)[None, :] < lengths[:, None])[..., None]
    padded = padded * (torch.arange(shape[0])[None, :] < lengths[:, None])[..., None]
    encoder, extractor = built(name, "encoder"), built(name, "extractor")
    assert torch.allclose(encoder(short, lengths)[0], encoder(padded, lengths)[0], atol=1e-6)
    (tokens, mask), (long_tokens, long_mask) = extractor(short, lengths), extractor(padded, lengths)
    assert mask is not None and mask.any(dim=1).all(), "a sequence of one step gives a token"
    assert torch.equal(mask.sum(dim=1), long_mask.sum(dim=1))
    for row in range(3):
        assert torch.allclose(tokens[row][mask[row]], long_tokens[row][long_mask[row]], atol=1e-6)


CHECKS = [check for label, check in sorted(globals().items()) if label.startswith("check_")]
