"""A simulated site: the server assigns its samples, and any node may run it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context

from client.site import Site
from fedrecon_core.data.allocation import Share
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import Statistics, scaled
from fedrecon_core.errors import DataError
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import tensor_bytes
from fedrecon_core.types import DatasetSpec
from strategies.messages import TrainInstruction

OPEN_SITES = 64
"""Maximum number of simulated sites whose data a process keeps open. The least recently used one is closed first."""
_open: OrderedDict[tuple[str, ...], SiteData] = OrderedDict()


class SimulatedSite(Site):
    """The site that the message names."""

    own = None
    data_hash = ""

    def __init__(self, context: Context, instruction: TrainInstruction) -> None:
        """See ``Site``. ``DataError`` if the message assigns no samples: a deployment reached a node without data."""
        super().__init__(context, instruction)
        if instruction.share is None:
            raise DataError(
                "this node has no site: expected site=, data= and state= in its node config (docs/site-folder.md), "
                "found no site=; `fedrecon data split` makes site folders from a simulation"
            )
        self.share = instruction.share

    @property
    def name(self) -> str:
        """See ``Site.name``."""
        return self.instruction.site

    @property
    def spec(self) -> DatasetSpec:
        """See ``Site.spec``."""
        return load_dataset(self.config).spec

    @property
    def folder(self) -> Path:
        """The site's folder in the run directory, which is on the same machine."""
        run = str(self.run_config.get("out") or self.instruction.run)
        return Path(run) / "sites" / self.name

    def data(self, split: str, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """See ``Site.data``. The share in the message is of ``split``; only ``oracle`` gets the sealed copy."""
        return self._opened(self.share, statistics)

    def training(self, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """See ``Site.training``. The message must contain their share."""
        if self.instruction.training is None:
            raise DataError("expected the site's training samples in the message, found none")
        return self._opened(self.instruction.training, statistics)

    def _opened(self, share: Share, statistics: Mapping[str, Statistics] | None) -> SiteData:
        config = self.config
        sealed, known = self.recovery.reads_absent, dict(statistics or {})
        digest = hashlib.sha256(share.samples.tobytes() + share.present.tobytes())
        for name, found in sorted(known.items()):
            digest.update(name.encode() + tensor_bytes(found.mean) + tensor_bytes(found.std))
        key = (self.name, config.data.model_dump_json(), str(config.seed), str(sealed), digest.hexdigest())
        if key not in _open:
            device = choose_device(config.device)
            opened = open_site(load_dataset(config), share.samples, share.present, device=device, sealed=sealed)
            _open[key] = scaled(opened, known)
            while len(_open) > OPEN_SITES:
                _open.popitem(last=False)
        _open.move_to_end(key)
        return _open[key]
