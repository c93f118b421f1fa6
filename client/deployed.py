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
from fedrecon_core.data.site_data import SiteData, open_split, split_samples
from fedrecon_core.data.site_folder.opening import open_folder
from fedrecon_core.data.statistics import Statistics, scaled
from fedrecon_core.errors import DataError
from fedrecon_core.runtime import choose_device
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec
from strategies.messages import Holding, OwnData

RUN = re.compile(r"[0-9a-f]{32}")
"""The form of ``RunDirectory.identity`` at the server."""


class DeployedSite(Site):
    """The site that the node config names, with a folder of data and a folder of state."""

    @property
    def name(self) -> str:
        """``site`` of the node config."""
        name = str(self.node_config["site"])
        if not SITE_NAME.fullmatch(name):
            raise DataError(f"node config: site: expected {SITE_NAME_RULE}, found '{name}'")
        return name

    @property
    def spec(self) -> DatasetSpec:
        """See ``Site.spec``."""
        return self._dataset.spec

    @property
    def own(self) -> OwnData:
        """The specification, ``data_hash``, and the samples of each split, counted in the table of samples."""
        exists, holdings = self._dataset.exists(), {}
        for split in SPLITS:
            kept = split_samples(self._dataset, split, keep_empty=self._keep_empty)
            counts = exists[kept].sum(axis=0).tolist()
            holdings[split] = Holding(len(kept), dict(zip(self.spec.names, counts, strict=True)))
        return OwnData(json.dumps(self.spec.model_dump(mode="json")), self.data_hash, holdings)

    @property
    def data_hash(self) -> str:
        """The hash of ``dataset.yaml``, which has the hashes of all files."""
        return hashlib.sha256((self._path("data") / "dataset.yaml").read_bytes()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run's own folder in the site's folder of state. The server names the run; a name that could lead out of
        that folder is a ``DataError``."""
        if not RUN.fullmatch(self.instruction.run):
            raise DataError(
                f"the server names the run {self.instruction.run[:80]!r}; expected 32 digits of 0-9 and a-f "
                "(identity.txt of its run directory); nothing was written"
            )
        return self._path("state") / self.instruction.run

    def data(self, split: str, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """See ``Site.data``. On the CPU the arrays stay mapped from the disk."""
        device = choose_device(self.config.device)
        opened = open_split(self._dataset, split, device=device, keep_empty=self._keep_empty)
        return scaled(opened, dict(statistics or {}))

    @property
    def _keep_empty(self) -> bool:
        return self.config.missing.empty == "allow"

    @cached_property
    def _dataset(self) -> Dataset:
        if self.instruction.share is not None:
            raise DataError(
                f"site {self.name} has data of its own, and engine '{self.config.engine.name}' assigns others; "
                "run with --engine deployment (engine.name in the config)"
            )
        return open_folder(self._path("data"))

    def _path(self, key: str) -> Path:
        found = self.node_config.get(key)
        if not found:
            what = {"data": "its site folder (`fedrecon data split` makes some)", "state": "a folder for its state"}
            raise DataError(f"node config of site {self.name}: expected {key}=PATH, {what[key]}, found none")
        return Path(str(found))
