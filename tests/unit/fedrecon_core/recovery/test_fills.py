"""The fills of a site: kept where they fit, made anew for each batch where they do not, the same either way."""

import pytest
import torch

from fedrecon_core import seeding
from fedrecon_core.recovery.fills import CACHE_BYTES, SiteFills
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.recovery.uniform import uniform_noise
from fedrecon_core.registry import RECOVERIES
from tests.helpers.contract_support import gaps, seasoned
from tests.helpers.toy import NAMES, tiny_dataset, toy_recovery, toy_site

pytestmark = pytest.mark.quick


class Site:
    """A site with gaps, and the fills of a recovery for them, counted."""

    def __init__(self, name: str = "fedrecon") -> None:
        self.recovery = toy_recovery(name)
        self.data = toy_site(tiny_dataset(), gaps(48, len(NAMES)), sealed=self.recovery.reads_absent)
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
    assert kept.filled.keys() == anew.filled.keys() == set(NAMES)
    for name in NAMES:
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
