"""What every cell needs, imported once by the process that all cells of a sweep are forked from.

It starts no thread of Python's or PyTorch's, so that its forks are whole; nothing may be computed here, which would
start some.
"""

from __future__ import annotations

import contextlib
import importlib

from fedrecon_core.registry import discover
from server.runs.setup import PACKAGES
from strategies.code_hash import code_hash

MODULES = (
    "server.cli",  # the main module of every process
    "server.sweep.trial_run",
    "server.app",
    "client.app",
    "torch._dynamo",  # PyTorch imports it with the first optimiser that is made: two seconds of every cell
    "flwr_datasets.partitioner",
    "sklearn.datasets",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "pyarrow.parquet",
)

for _name in MODULES:
    with contextlib.suppress(Exception):  # the cell that needs it tells what is wrong with it
        importlib.import_module(_name)
with contextlib.suppress(Exception):
    discover(PACKAGES)
code_hash()  # of the code that was imported here, should a file change while cells run
