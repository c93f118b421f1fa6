"""The fills of a site: kept where they fit, made anew for each batch where they do not, the same either way."""

import pytest
import torch

from fedrecon_core.recovery.fills import KEPT, SiteFills
from fedrecon_core.recovery.stage import Knowledge
from tests.toys.contract_support import gaps, seasoned
from tests.toys.federation import NAMES, tiny_dataset, toy_recovery, toy_site

pytestmark = pytest.mark.quick


class Site:
    """A site with gaps, and FedRecon's reconstructions for them, counted."""

    def __init__(self) -> None:
        dataset = tiny_dataset()
        self.data = toy_site(dataset, gaps(48, len(NAMES)))
        self.recovery = toy_recovery("fedrecon")
        self.groups = self.recovery.build()
        self.knowledge: Knowledge = seasoned(self.recovery, self.data)
        self.calls = 0

    def recover(self, batch):
        self.calls += 1
        return self.recovery.recover(batch, self.groups, self.knowledge)


@pytest.fixture
def site():
    return Site()


def test_fills_that_do_not_fit_are_made_anew_and_are_the_same(site):
    kept, anew = SiteFills(site.recover, site.data), SiteFills(site.recover, site.data, limit=100)
    assert kept.seen.keys() == anew.seen.keys() == set(NAMES)
    for name in NAMES:
        assert torch.equal(kept.seen[name], anew.seen[name])
        assert torch.equal(kept.seen[name], site.data.columns[name].rows < 0)
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
    whole = sum(fill.values.nbytes for fill in SiteFills(site.recover, site.data, limit=KEPT)._stored)
    assert SiteFills(site.recover, site.data, limit=whole)._stored is not None
    assert SiteFills(site.recover, site.data, limit=whole - 1)._stored is None
