"""A site with data of its own: a SuperNode with ``site``, ``data`` and ``state`` in its node config."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from client.site import Site
from fedrecon_core.data.dataset import Dataset
from fedrecon_core.data.folder import open_folder
from fedrecon_core.data.site import SiteData, own_site
from fedrecon_core.data.statistics import Statistics, scaled
from fedrecon_core.device import choose_device
from fedrecon_core.errors import DataError
from fedrecon_core.types import SPLITS, DatasetSpec
from strategies.messages import Holding, OwnData

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class DeployedSite(Site):
    """The site that the node config names, with its folder of data and its folder of state."""

    @property
    def name(self) -> str:
        """``site`` of the node config."""
        name = str(self.node_config["site"])
        if not NAME.fullmatch(name):
            raise DataError(f"node config: site: expected letters, digits, '_', '.', '-' (not first), found '{name}'")
        return name

    @property
    def spec(self) -> DatasetSpec:
        """See ``Site.spec``."""
        return self._dataset.spec

    @property
    def own(self) -> OwnData:
        """The specification, a hash of ``dataset.yaml`` (which holds the hashes of all files), and what there is."""
        spec = json.dumps(self.spec.model_dump(mode="json"))
        digest = hashlib.sha256((self._path("data") / "dataset.yaml").read_bytes()).hexdigest()
        return OwnData(spec, digest, {split: self._holding(split) for split in SPLITS})

    @property
    def folder(self) -> Path:
        """A folder of each run's own in the site's folder of state."""
        return self._path("state") / self.order.run

    def data(self, split: str, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """See ``Site.data``. The arrays stay mapped from the disk."""
        keep_empty = self.config.missing.empty == "allow"
        opened = own_site(self._dataset, split, device=choose_device(self.config.device), keep_empty=keep_empty)
        return scaled(opened, dict(statistics or {}))

    def _holding(self, split: str) -> Holding:
        present = self.data(split).present.sum(dim=0).tolist()
        return Holding(len(self.data(split)), dict(zip(self.spec.names, present, strict=True)))

    @cached_property
    def _dataset(self) -> Dataset:
        if self.order.share is not None:
            raise DataError(
                f"site {self.name} has data of its own, and engine '{self.config.engine.name}' deals out others; "
                "run with --engine deployment (engine.name in the config)"
            )
        return open_folder(self._path("data"))

    def _path(self, key: str) -> Path:
        found = self.node_config.get(key)
        if not found:
            what = {"data": "its site folder (`fedrecon data split` makes some)", "state": "a folder for what it keeps"}
            raise DataError(f"node config of site {self.name}: expected {key}=PATH, {what[key]}, found none")
        return Path(str(found))
