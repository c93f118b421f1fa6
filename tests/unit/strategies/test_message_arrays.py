"""Arrays of messages are opened and made as Flower would, byte for byte; what does not fit itself is refused."""

import numpy as np
import pytest
from flwr.app import Array

from strategies.messages.arrays import made, opened

pytestmark = pytest.mark.quick

VALUES = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "number": np.array(2.5),
    "whole numbers": np.arange(5),
    "bytes": np.arange(7, dtype=np.uint8),
    "half": np.ones((2, 1, 3), dtype=np.float16),
    "truths": np.array([True, False]),
    "nothing": np.zeros((0, 3), dtype=np.float32),
}


@pytest.mark.parametrize("what", VALUES)
def test_an_array_is_made_as_flower_makes_it_and_opened_again(what):
    values = VALUES[what]
    array = made(str(values.dtype), values.shape, values)
    flowers = Array(values)
    assert (array.dtype, array.shape, array.stype, array.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )
    found = opened(flowers)
    assert found.dtype == values.dtype and np.array_equal(found, values) and found.shape == values.shape
    assert not found.flags.writeable


@pytest.mark.parametrize("values", [np.asfortranarray(VALUES["matrix"]), VALUES["matrix"].astype(">f4")])
def test_other_layouts_are_opened_as_well(values):
    assert np.array_equal(opened(Array(values)), VALUES["matrix"])


def test_pieces_stand_one_behind_the_other():
    whole = VALUES["matrix"]
    assert made("float32", [3, 4], whole[:1], whole[1:]).data == Array(whole).data
    assert np.array_equal(opened(made("float32", (3, 4), whole.T.copy().T)), whole)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:130]])
def test_too_few_or_too_many_bytes_are_refused(change):
    array = Array(VALUES["matrix"])
    array.data = change(array.data)
    with pytest.raises(ValueError, match="expected the bytes of an array of float32"):
        opened(array)


def test_what_is_no_array_of_numbers_is_refused():
    with pytest.raises(ValueError, match="expected the bytes"):
        made("float32", [2], np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="expected the bytes"):
        made("float32", [-1, -3], np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="expected the bytes"):
        made("object", [1], np.zeros(1, dtype=np.float64))
    with pytest.raises(TypeError, match="no_such_type"):
        made("no_such_type", [1], np.zeros(1))
    nonsense = Array("float32", (1,), "numpy.ndarray", b"nonsense")
    with pytest.raises(ValueError, match=r".+"):
        opened(nonsense)
    with pytest.raises(TypeError, match="serialization type"):
        opened(Array("float32", (1,), "pickle", b""))
