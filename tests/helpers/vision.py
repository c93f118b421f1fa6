"""torchvision in an environment whose torch is another build than the one it was compiled for.

PyPI's torchvision belongs to PyPI's torch (CUDA). Beside a CPU build of torch its compiled operators do not load, and
its import fails where it describes them. No network that the tests use needs an operator, so that they are declared,
without code, and torchvision is imported then.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

DESCRIPTIONS = "_meta_registrations.py"
DESCRIBED = re.compile(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"\)')
_declared: list[torch.library.Library] = []
"""A declaration lasts as long as its library."""


def use_torchvision() -> None:
    """Afterwards torchvision can be imported; skips the test where even that does not help."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _declare()
        try:
            importlib.import_module("torchvision")
        except Exception as still:
            pytest.skip(f"torchvision was built for another torch, and cannot be imported without operators: {still}")


def _declare() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None and spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], DESCRIPTIONS).read_text(encoding="utf-8")
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in DESCRIBED.findall(source):
        library.define(f"{operator}(Tensor values) -> Tensor")
    _declared.append(library)
