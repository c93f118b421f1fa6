"""``uniform``: absent modalities are filled with uniform noise, the second baseline of the feature imputation paper."""

import math

import torch
from torch import Tensor

from fedrecon_core import seeding
from fedrecon_core.config import Params
from fedrecon_core.recovery.constant import SampleFill
from fedrecon_core.recovery.mean import spread
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.registry import RECOVERIES
from fedrecon_core.types import ModalitySpec


class UniformParams(Params):
    """No keys of its own."""

    name: str = "uniform"


@RECOVERIES.register("uniform")
class Uniform(SampleFill):
    """Per feature, the uniform distribution with the mean and the standard deviation of the training data."""

    Params = UniformParams
    reads_statistics = True

    def values_of(self, modality: ModalitySpec, ids: Tensor, global_info: GlobalInfo) -> Tensor:
        """[R, *shape], from the seed of the stage (that of its seeding scope), the modality and each sample's id."""
        key = seeding.derive(torch.initial_seed(), "uniform", modality.name)
        noise = uniform_noise(key, ids.cpu(), math.prod(modality.shape)).view(len(ids), *modality.shape)
        statistics = global_info.statistics.get(modality.name)
        if statistics is None:
            return noise
        half_width = math.sqrt(3) * spread(statistics.std.float(), modality, len(ids))
        return spread(statistics.mean.float(), modality, len(ids)) + (2 * noise - 1) * half_width


def uniform_noise(key: int, ids: Tensor, count: int) -> Tensor:
    """float32 [R, count] in [0, 1), independent numbers of which each row is a function of ``key`` and its id (int64
    [R]) alone: the place of each number, hashed twice with 64 bits of its row."""
    first, second = (_hashed(_hashed(_low(ids) ^ _word(half)) + _low(ids >> 32)) for half in (key, key >> 32))
    mixed = _hashed(torch.arange(count, dtype=torch.int32) + first[:, None])
    mixed = _hashed(mixed.bitwise_xor_(second[:, None]))
    return (mixed.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)).float().mul_(2**-24)


def _low(values: Tensor) -> Tensor:
    """The lower 32 bits, as int32."""
    return (((values & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).to(torch.int32)


def _word(value: int) -> int:
    """The lower 32 bits of a number, as int32 holds them."""
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _hashed(words: Tensor) -> Tensor:
    """A bijection of 32-bit words that scatters them, in place: shifts and two odd factors, whose products wrap."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        words.bitwise_xor_((words >> shift) & ((1 << (32 - shift)) - 1))
        words.mul_(_word(factor))
    return words
