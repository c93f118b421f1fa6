"""What the feature ``series`` needs in a test of all features."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def keys(base: Path) -> dict[str, Any]:
    """Sequences of three numbers."""
    return {"width": 3, "longest": 8}
