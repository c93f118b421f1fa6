"""What there is to say of a site's training data: by the site itself, or by a server that dealt them out."""

from __future__ import annotations

from fedrecon_core.data.site_data import SiteData
from fedrecon_core.data.statistics import site_sums
from strategies.messages import OwnData, SiteInfo


def description(name: str, code: str, data: SiteData, own: OwnData | None = None) -> SiteInfo:
    """What the site ``name``, which runs the code with the hash ``code``, says of its training samples ``data``."""
    return SiteInfo(
        name=name,
        code_hash=code,
        spec_hash=data.spec.digest(),
        modalities=data.modalities,
        samples=len(data),
        sums=site_sums(data),
        own=own,
    )
