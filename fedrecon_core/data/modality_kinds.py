"""What a modality's kind asks of the arrays, seen through the registry: ``data`` knows no network."""

from __future__ import annotations

from fedrecon_core.errors import ConfigError
from fedrecon_core.registry import MODALITIES


def shape_fault(kind: str, shape: tuple[int, ...]) -> str | None:
    """What is wrong with ``shape``, one sample's, for a modality of ``kind``; None if it fits.

    Raises ``ConfigError`` for an unknown kind.
    """
    axes: tuple[str, ...] = MODALITIES.get(kind).axes
    if 0 in shape or not shape or (axes and len(axes) != len(shape)):
        expected = f"[{', '.join(axes or ('...',))}] ({kind}), none of them 0"
        return f"expected {expected}, found [{', '.join(map(str, shape))}]"
    return None


def kind_fault(kind: str) -> str | None:
    """What is wrong with the name of a kind; None if there is such a kind."""
    try:
        MODALITIES.get(kind)
    except ConfigError as error:
        return str(error)
    return None
