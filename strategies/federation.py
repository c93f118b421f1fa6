"""What the server knows of the federation while it trains: sites, their plans, and what the groups have seen."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedrecon_core import seeding
from fedrecon_core.config import RunConfig
from fedrecon_core.data.allocation import Share
from fedrecon_core.data.statistics import Statistics
from fedrecon_core.recovery.stage import Knowledge
from fedrecon_core.state import TransferPlan
from fedrecon_core.types import DatasetSpec
from strategies.messages import Order, SiteInfo


@dataclass
class Federation:
    """``nodes`` maps site names to Flower's random node ids of the moment; everything else goes by name.

    ``trained`` counts, per group, the samples that it was trained on so far; ``quality`` holds the mappings' scores.
    """

    config: RunConfig
    spec: DatasetSpec
    run: str
    sites: dict[str, SiteInfo]
    nodes: dict[str, int]
    plans: dict[str, TransferPlan]
    shares: dict[str, Share] = field(default_factory=dict)
    statistics: dict[str, Statistics] = field(default_factory=dict)
    trained: dict[str, int] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    config_json: str = ""

    def __post_init__(self) -> None:
        """Serialise the config once: it travels with every message."""
        self.config_json = self.config_json or self.config.model_dump_json()

    def order(self, name: str, round_: int) -> Order:
        """The order for the site ``name`` in round ``round_``."""
        return Order(self.config_json, round_, self.run, self.shares.get(name))

    def knowledge(self, round_: int) -> Knowledge:
        """What travels with the groups in round ``round_``."""
        return Knowledge(round_, dict(self.trained), dict(self.quality), dict(self.statistics))

    def sample(self, round_: int, purpose: str, fraction: float) -> list[str]:
        """``fraction`` of the sites that hold samples (at least one), drawn by name, sorted: node ids are random."""
        names = sorted(name for name, site in self.sites.items() if site.samples > 0)
        wanted = max(1, int(fraction * len(names) + 1e-9))
        stream = seeding.numpy_stream(self.config.seed, "sampling", purpose, round_)
        return sorted(stream.choice(names, size=wanted, replace=False).tolist()) if wanted < len(names) else names
