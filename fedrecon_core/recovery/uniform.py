"""``uniform``: absent modalities are filled with uniform noise, the second baseline of the feature
imputation paper (FIN)."""

import math

import torch
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.config import Params
from fedrecon_core.recovery.base import PlainFill, expand_features
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class UniformParams(Params):
    """This recovery has no keys."""

    name: str = "uniform"


@RECOVERIES.register("uniform")
class Uniform(PlainFill):
    """Per feature, the uniform distribution with the mean and the standard deviation of the training data."""

    Params = UniformParams
    reads_statistics = True

    def values(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape], a function of the stage's seed (the one of its seeding scope), the modality and each id."""
        key = seeding.derive(torch.initial_seed(), "uniform", modality.name)
        noise = uniform_noise(key, ids.cpu(), math.prod(modality.shape)).view(len(ids), *modality.shape)
        statistics = global_info.statistics.get(modality.name)
        if statistics is None:
            return noise
        half_width = math.sqrt(3) * expand_features(statistics.std.float(), modality, len(ids))
        return expand_features(statistics.mean.float(), modality, len(ids)) + (2 * noise - 1) * half_width


def uniform_noise(key: int, ids: Tensor, count: int) -> Tensor:
    """float32 [R, count]: independent uniform numbers in [0, 1).

    Each row is a function of ``key`` and its id (int64 [R]) alone: the position of each number is hashed twice, with 64
    bits of its row.
    """
    first, second = (_hash(_hash(_low_bits(ids) ^ _as_int32(half)) + _low_bits(ids >> 32)) for half in (key, key >> 32))
    mixed = _hash(torch.arange(count, dtype=torch.int32) + first[:, None])
    mixed = _hash(mixed.bitwise_xor_(second[:, None]))
    return (mixed.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)).float().mul_(2**-24)


def _as_int32(value: int) -> int:
    """The lower 32 bits of ``value`` as a signed number."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _low_bits(values: Tensor) -> Tensor:
    """The same for a tensor."""
    return (((values & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


def _hash(words: Tensor) -> Tensor:
    """Mix 32-bit words in place by a bijection: shifts, and two odd factors whose products wrap around."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        words.bitwise_xor_((words >> shift) & ((1 << (32 - shift)) - 1))
        words.mul_(_as_int32(factor))
    return words
