"""The imports of every trial. The fork server of a sweep imports this module once, before trials are forked from it.

It must not start threads of Python or PyTorch, since forks would not be safe then. Therefore it computes nothing.
"""

from __future__ import annotations

import contextlib
import importlib

from fedrecon_core.registry import discover
from server.runs.setup import PACKAGES
from strategies.code_hash import code_hash

MODULES = (
    "server.cli",  # the main module of every process
    "server.engines.inprocess",
    "server.app",
    "client.app",
    "flwr_datasets.partitioner",
    "sklearn.datasets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
)

for _name in MODULES:
    with contextlib.suppress(Exception):  # the trial that needs it reports the failure
        importlib.import_module(_name)
with contextlib.suppress(Exception):
    discover(PACKAGES)
code_hash()  # of the code that was imported here, even if a file changes while trials run
