"""A plugin in a package of its own: a recovery and a metric, written into a folder and installed with pip."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

from fedrecon_core import registry
from server.runs.setup import PACKAGES
from tests.helpers.contract_support import restored

NAME, VERSION = "fedrecon_ramp", "0.3"
PYPROJECT = f"""
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "fedrecon-ramp"
    version = "{VERSION}"

    [project.entry-points."fedrecon.plugins"]
    {NAME} = "{NAME}"

    [tool.setuptools]
    packages = ["{NAME}"]
"""
RECOVERY = '''
    """``ramp``: absent modalities are filled with a ramp."""

    import torch

    from fedrecon_core.config import Params
    from fedrecon_core.recovery.base import PlainFill
    from fedrecon_core.registry import RECOVERIES


    class RampParams(Params):
        """``slope`` is the last value of the ramp."""

        name: str = "ramp"
        slope: float = 0.5


    @RECOVERIES.register("ramp")
    class Ramp(PlainFill):
        """Values rise from 0 to ``slope``."""

        Params = RampParams

        def values(self, modality, ids, global_info):
            """A ramp for each sample, [len(ids), *shape]."""
            ramp = self.params.slope * torch.linspace(0, 1, torch.Size(modality.shape).numel())
            return ramp.repeat(len(ids)).view(len(ids), *modality.shape)
'''
METRIC = '''
    """``worst_recall``: the recall of the class that is recognised worst."""

    from fedrecon_core.metrics.base import Metric, ratio
    from fedrecon_core.registry import METRICS


    @METRICS.register("worst_recall")
    class WorstRecall(Metric):
        """The lowest recall of the classes that have samples."""

        @staticmethod
        def compute(counts):
            """The metric in [0, 1]."""
            support = counts.confusion.sum(axis=1)
            recall = ratio(counts.confusion.diagonal(), support)[support > 0]
            return float(recall.min()) if len(recall) else 0.0
'''


def write_package(folder: Path) -> Path:
    """Write the source of the plugin into ``folder`` and return it."""
    files = {
        "pyproject.toml": PYPROJECT,
        f"{NAME}/__init__.py": '"""A plugin."""\n',
        f"{NAME}/ramp.py": RECOVERY,
        f"{NAME}/worst_recall.py": METRIC,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")
    return folder


def install(source: Path, target: Path) -> Path:
    """Install the package in ``source`` with pip into the folder ``target``, which belongs on the search path."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
    return target


def write_distribution(folder: Path, name: str, files: dict[str, str], value: str | None = None) -> Path:
    """Write the files of an installation without pip: ``files`` of the package ``name`` and its entry point."""
    information = folder / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    entry = f"[fedrecon.plugins]\n{name} = {value or name}\n"
    (information / "entry_points.txt").write_text(entry, encoding="utf-8")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(dedent(text).lstrip(), encoding="utf-8")
    return folder


@contextmanager
def forgotten(*packages: str) -> Iterator[None]:
    """Undo at the end of the block what plugins registered in it, and the import of ``packages``."""
    registry.discover((*PACKAGES, *registry.DATA_PACKAGES))  # these stay
    registries = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    with ExitStack() as stack:
        for found in registries:
            stack.enter_context(restored(found))
        try:
            yield
        finally:
            registry.use_plugins([])
            registry._loaded.clear()
            registry._unused.clear()
            for module in list(sys.modules):
                if module.partition(".")[0] in packages:
                    del sys.modules[module]
