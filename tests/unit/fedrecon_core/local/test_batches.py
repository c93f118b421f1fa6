"""An epoch's batches: every item once, and items of like length together."""

import pytest
import torch

from fedrecon_core.local.stage_runner import batches
from fedrecon_core.seeding import torch_stream

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")


def epoch(items, size, lengths=None, seed=0):
    return list(batches(items, size, torch_stream(seed, "order"), CPU, lengths))


def padded(found, lengths):
    return sum(int(lengths[batch].max()) * len(batch) for batch in found)


@pytest.mark.parametrize("items", [1, 7, 16, 85, 300])
@pytest.mark.parametrize("ragged", [False, True])
def test_an_epoch_holds_every_item_once_in_batches_of_the_size_asked_for(items, ragged):
    lengths = torch.arange(items) % 11 + 1 if ragged else None
    found = epoch(items, 16, lengths)
    assert torch.cat(found).sort().values.tolist() == list(range(items))
    assert sorted(map(len, found), reverse=True) == [16] * (items // 16) + [items % 16] * (items % 16 > 0)


def test_items_of_like_length_come_together():
    lengths = (torch.randn(200, generator=torch.Generator().manual_seed(1)) * 0.6 + 5).exp().long() + 1
    assert padded(epoch(200, 16, lengths), lengths) < 0.7 * padded(epoch(200, 16), lengths)


def test_batches_of_a_small_site_differ_from_epoch_to_epoch_and_repeat_with_the_seed():
    lengths = torch.arange(40) + 10
    stream = torch_stream(0, "order")
    first, second = ([set(b.tolist()) for b in batches(40, 8, stream, CPU, lengths)] for _ in range(2))
    assert not any(batch in second for batch in first)
    assert [set(b.tolist()) for b in epoch(40, 8, lengths)] == first
