"""The size of messages on the wire: everything that is serialised, framing included."""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from strategies.messages import is_group

Shape = tuple[tuple[str, tuple[int, ...], str], ...]


class WireMeter:
    """Adds up message sizes. A group's size depends on its tensors' names, shapes and types alone, so each group is
    serialised once per run and not once per message."""

    def __init__(self, total: int = 0) -> None:
        """``total``: the bytes of a resumed run so far."""
        self.total = total
        self._groups: dict[tuple[str, Shape], int] = {}

    def add(self, content: RecordDict) -> None:
        """Count a message that was sent or received."""
        self.total += self.weigh(content)

    def weigh(self, content: RecordDict) -> int:
        """The size of one message in bytes. Flower sends each object separately."""
        skeleton = RecordDict({name: _stand_in(name) if is_group(name) else r for name, r in content.items()})
        groups = sum(self._group(name, r) for name, r in content.array_records.items() if is_group(name))
        return _size(skeleton) + groups

    def _group(self, name: str, record: ArrayRecord) -> int:
        key = (name, tuple((tensor, tuple(array.shape), array.dtype) for tensor, array in record.items()))
        if key not in self._groups:
            self._groups[key] = _size(record) - _size(_stand_in(name))
        return self._groups[key]


def _stand_in(name: str) -> ArrayRecord:
    """A small record that differs for each name, because Flower sends equal objects only once."""
    return ArrayRecord({name: Array(np.frombuffer(name.encode(), dtype=np.uint8))})


def _size(item: object) -> int:
    children = getattr(item, "children", None) or {}
    return len(item.deflate()) + sum(_size(child) for child in children.values())  # type: ignore[attr-defined]
