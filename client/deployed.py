"""A site with its own data: a SuperNode with ``site``, ``data`` and ``state`` in its node config."""

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
"""The format of ``RunDirectory.identity`` at the server."""


class DeployedSite(Site):
    """The site that the node config names, with a folder for its data and one for its state."""

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
        """The specification, ``data_hash``, and the numbers of samples of each split."""
        exists, holdings = self._dataset.exists(), {}
        for split in SPLITS:
            kept = split_samples(self._dataset, split, keep_empty=self.config.missing.empty == "allow")
            counts = exists[kept].sum(axis=0).tolist()
            holdings[split] = Holding(len(kept), dict(zip(self.spec.names, counts, strict=True)))
        return OwnData(json.dumps(self.spec.model_dump(mode="json")), self.data_hash, holdings)

    @property
    def data_hash(self) -> str:
        """The hash of ``dataset.yaml``, which contains the hashes of all other files."""
        return hashlib.sha256((self._path("data") / "dataset.yaml").read_bytes()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run's folder inside the folder ``state``. The server names the run: a name in any other format could
        point outside the folder, and raises ``DataError``."""
        if not RUN.fullmatch(self.instruction.run):
            raise DataError(
                "expected a run of 32 digits 0-9 and a-f from the server (identity.txt of its run directory), found "
                f"{self.instruction.run[:80]!r}; nothing was written"
            )
        return self._path("state") / self.instruction.run

    def data(self, split: str, statistics: Mapping[str, Statistics] | None = None) -> SiteData:
        """See ``Site.data``. On the CPU the arrays are memory-mapped."""
        device = choose_device(self.config.device)
        keep_empty = self.config.missing.empty == "allow"
        opened = open_split(self._dataset, split, device=device, keep_empty=keep_empty)
        return scaled(opened, dict(statistics or {}))

    @cached_property
    def _dataset(self) -> Dataset:
        if self.instruction.share is not None:
            raise DataError(
                f"site {self.name} has its own data, but engine '{self.config.engine.name}' assigns samples to sites; "
                "run with --engine deployment (engine.name in the config)"
            )
        return open_folder(self._path("data"))

    def _path(self, key: str) -> Path:
        found = self.node_config.get(key)
        if not found:
            what = {"data": "its site folder (`fedrecon data split` writes some)", "state": "a folder for its state"}
            raise DataError(f"node config of site {self.name}: expected {key}=PATH, {what[key]}, found none")
        return Path(str(found))
