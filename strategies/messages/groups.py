"""Parameter groups in a message: one ArrayRecord per group, its tensors bundled into one array of bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fedrecon_core.state import State, flatten_groups, unflatten_groups

NPY_MAGIC, NPY_PREAMBLE = b"\x93NUMPY\x01\x00", 10
"""The first bytes of an array written by ``numpy.save`` (version 1.0 of its format), and the number of bytes before its
header (these, and two bytes with the length of the header)."""


def bundle(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """A group as a record of one array, whose name is the layout of its bytes: JSON ``[[tensor, dtype, shape], ...]``.

    A SuperLink stores and sends every array separately, which takes 10 to 20 ms each with a database: more than a
    second for a message of 80 small arrays.
    """
    values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in state.items()}
    layout = [[name, value.dtype.name, list(value.shape)] for name, value in values.items()]
    content = [value.reshape(-1).view(np.uint8) for value in values.values()]
    return ArrayRecord({json.dumps(layout): Array(np.concatenate([np.zeros(0, np.uint8), *content]))})


def unbundle(record: ArrayRecord) -> State:
    """Copy the tensors of a bundled group. Raises ``ValueError`` or ``TypeError`` if the record is not a bundle, or its
    layout does not match its bytes."""
    if len(record) != 1:
        raise ValueError(f"expected one array per group, found {len(record)}")
    [(layout, array)] = record.items()
    if array.stype != "numpy.ndarray" or not array.data.startswith(NPY_MAGIC):
        raise ValueError(f"expected an array in NumPy's format, found {array.stype} {array.data[:8]!r}")
    header = int.from_bytes(array.data[8:NPY_PREAMBLE], "little")
    # ``Array.numpy`` would copy the content, which takes a server as long as computing the averages.
    content, tensors = np.frombuffer(array.data, np.uint8, offset=NPY_PREAMBLE + header), json.loads(layout)
    expected = sum(_size(dtype, shape) for _, dtype, shape in tensors)
    if expected != len(content):
        raise ValueError(f"expected {expected} bytes according to the layout, found {len(content)}")
    state, start = {}, 0
    for name, dtype, shape in tensors:
        end = start + _size(dtype, shape)
        state[name] = torch.from_numpy(content[start:end].copy().view(dtype).reshape(shape))
        start = end
    return state


def _size(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor."""
    if min(shape, default=0) < 0:
        raise ValueError(f"expected a shape, found {shape}")
    return math.prod(shape) * np.dtype(dtype).itemsize


def is_group(name: str) -> bool:
    """Whether ``name`` is the name of a parameter group, and not of another record."""
    return "." in name


def read_groups(content: RecordDict) -> dict[str, State]:
    """Every group in a message."""
    return {name: unbundle(record) for name, record in content.array_records.items() if is_group(name)}


def group_sizes(content: RecordDict) -> dict[str, int]:
    """Tensor bytes of every group in a message, from the layouts."""
    records = {name: record for name, record in content.array_records.items() if is_group(name)}
    return {name: sum(_size(*tensor[1:]) for key in r for tensor in json.loads(key)) for name, r in records.items()}


def flatten(groups: Mapping[str, State]) -> ArrayRecord:
    """All groups as one record with keys ``group/tensor``, the form of a model in Flower's strategy interface."""
    return ArrayRecord(flatten_groups(groups))


def unflatten(arrays: ArrayRecord) -> dict[str, State]:
    """The groups in a flat record; the inverse of ``flatten``."""
    state: dict[str, Any] = arrays.to_torch_state_dict()
    return unflatten_groups(state)
