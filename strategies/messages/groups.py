"""Parameter groups in a message: one record each, its tensors bundled into one array."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord, RecordDict

from fedrecon_core.state import State
from strategies.messages.arrays import made, opened


def pack_group(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """A group's tensors as a record."""
    values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()}
    return ArrayRecord({name: made(value.dtype.name, value.shape, value) for name, value in values.items()})


def unpack_group(record: ArrayRecord) -> State:
    """A record's arrays as tensors of their own."""
    return {name: torch.from_numpy(opened(array).copy()) for name, array in record.items()}


def bundle(group: ArrayRecord) -> ArrayRecord:
    """The same group as one array, whose name tells how to take it apart. A SuperLink stores and sends every array on
    its own, at 10 to 20 ms each with a database: a message of 80 small arrays takes seconds, one of 13 does not."""
    layout = [[name, array.dtype, list(array.shape)] for name, array in group.items()]
    size = sum(_bytes(array.dtype, array.shape) for array in group.values())
    return ArrayRecord({json.dumps(layout): made("uint8", [size], *map(opened, group.values()))})


def unbundle(record: ArrayRecord) -> ArrayRecord:
    """The group in a bundle. Raises ``ValueError`` where name and bytes do not fit each other."""
    if len(record) != 1:
        raise ValueError(f"expected one array per group, found {len(record)}")
    [(name, array)] = record.items()
    group, content, start = ArrayRecord(), opened(array), 0
    for tensor, dtype, shape in json.loads(name):
        size = _bytes(dtype, shape)
        group[tensor] = made(dtype, shape, content[start : start + size])
        start += size
    if start != len(content):
        raise ValueError(f"expected {start} bytes as the layout says, found {len(content)}")
    return group


def is_group(name: str) -> bool:
    """Whether a record's name is a parameter group's."""
    return "." in name


def read_groups(content: RecordDict) -> dict[str, ArrayRecord]:
    """Every group in a message."""
    return {name: unbundle(record) for name, record in content.array_records.items() if is_group(name)}


def record_bytes(record: ArrayRecord) -> int:
    """Tensor bytes of a packed group: shape times the size of the dtype, without Flower's framing."""
    return sum(_bytes(array.dtype, array.shape) for array in record.values())


def group_sizes(content: RecordDict) -> dict[str, int]:
    """Tensor bytes of every group in a message, as ``record_bytes`` of ``read_groups``, read off the bundles' names: no
    array is opened."""
    records = {name: record for name, record in content.array_records.items() if is_group(name)}
    return {name: sum(_bytes(*tensor[1:]) for key in r for tensor in json.loads(key)) for name, r in records.items()}


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def flatten(groups: Mapping[str, ArrayRecord]) -> ArrayRecord:
    """All groups as one record with keys ``group/tensor``: the form in which Flower hands the model to a strategy."""
    return ArrayRecord({f"{group}/{name}": array for group in groups for name, array in groups[group].items()})


def unflatten(arrays: ArrayRecord) -> dict[str, ArrayRecord]:
    """The groups in a flat record; the arrays are shared, not copied."""
    groups: dict[str, ArrayRecord] = {}
    for key, array in arrays.items():
        group, name = key.rsplit("/", 1)
        groups.setdefault(group, ArrayRecord())[name] = array
    return groups
