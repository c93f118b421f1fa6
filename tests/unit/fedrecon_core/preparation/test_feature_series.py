"""series: NumPy files and tables as sequences or vectors, and one line for each that does not fit."""

import numpy as np
import pytest
from pydantic import ValidationError

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.series import Series, SeriesParams
from tests.helpers.contents import npy_bytes

pytestmark = pytest.mark.quick

VALUES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])
TABLE = b"time,acc x,acc y\n1,2,3\n4,5,6.5\n"


def read(data: bytes, **keys) -> np.ndarray:
    (array,) = Series(SeriesParams(**keys)).extract([RawItem(data, "ward 3")])
    assert array.dtype == np.float32
    return array


def line(data: bytes, **keys) -> str:
    with pytest.raises(DataError) as caught:
        read(data, **keys)
    return str(caught.value).removeprefix("ward 3: ")


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", ">f8", "<i4", "u1", "?"])
def test_arrays_of_every_type_of_number_are_sequences(dtype):
    values = VALUES.astype(dtype)
    np.testing.assert_array_equal(read(npy_bytes(values), width=3, longest=5), values.astype(np.float32))
    transposed = np.asfortranarray(values)
    np.testing.assert_array_equal(read(npy_bytes(transposed), width=3, longest=5), values.astype(np.float32))


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        b"\xef\xbb\xbf" + TABLE,
        TABLE.replace(b"\n", b"\r\n"),
        b"1,2,3\n\n4,5,6.5",
        b' 1 , "2",3\n4,5,65e-1\n,,\n',
    ],
    ids=["names", "byte order mark", "Windows", "no names", "spaces"],
)
def test_tables_are_sequences_of_their_rows(table):
    np.testing.assert_array_equal(read(table, width=3, longest=2), VALUES.astype(np.float32))


def test_columns_are_taken_by_name_or_place_in_the_order_of_the_key():
    expected = VALUES[:, [2, 0]].astype(np.float32)
    np.testing.assert_array_equal(read(TABLE, columns=["acc y", "time"], longest=2), expected)
    np.testing.assert_array_equal(read(TABLE, columns=[2, 0], longest=2), expected)
    numbers = b"1,2,3\n" + TABLE.partition(b"\n")[2]
    np.testing.assert_array_equal(read(numbers, columns=["3", "1"], longest=2), expected)  # names may be numbers


def test_another_delimiter_is_a_key():
    np.testing.assert_array_equal(read(TABLE.replace(b",", b";"), width=3, longest=2, delimiter=";"), VALUES)


@pytest.mark.parametrize(
    "data",
    [npy_bytes(VALUES[0]), npy_bytes(VALUES[:1]), npy_bytes(VALUES[0][:, None]), b"a,b,c\n1,2,3\n", b"1\n2\n3\n"],
    ids=["vector", "row", "column", "table with a row", "table with a column"],
)
def test_a_vector_may_lie_as_a_row_or_as_a_column(data):
    np.testing.assert_array_equal(read(data, width=3), [1, 2, 3])


def test_a_sequence_of_single_numbers_need_not_say_that_it_has_one_column():
    np.testing.assert_array_equal(read(npy_bytes(VALUES[0]), width=1, longest=9), [[1], [2], [3]])


def test_a_longer_sequence_is_refused_unless_it_may_be_cut():
    expected = "expected 1 to 1 steps of 3 numbers, found an array of shape [2, 3]"
    assert line(TABLE, width=3, longest=1) == expected
    np.testing.assert_array_equal(read(TABLE, width=3, longest=1, longer="cut"), VALUES[:1])


def test_modalities_are_vectors_and_sequences():
    vector = Series(SeriesParams(width=3))
    assert (vector.modality("labs").kind, vector.modality("labs").shape, vector.ragged) == ("vector", (3,), False)
    sequence = Series(SeriesParams(columns=["x", "y"], longest=90))
    assert (sequence.modality("acc").kind, sequence.modality("acc").shape) == ("sequence", (90, 2))
    assert sequence.ragged


SEQUENCE = {"width": 3, "longest": 5}
BAD = {
    "nothing": (b"", SEQUENCE, "expected a .npy file or a CSV table, found no rows"),
    "blank lines": (b"\n \n", SEQUENCE, "expected a .npy file or a CSV table, found no rows"),
    "names alone": (b"a,b,c\n", SEQUENCE, "expected 1 to 5 steps of 3 numbers, found an array of shape [0]"),
    "no steps": (
        npy_bytes(VALUES[:0]),
        SEQUENCE,
        "expected 1 to 5 steps of 3 numbers, found an array of shape [0, 3]",
    ),
    "another width": (
        npy_bytes(VALUES[:, :2]),
        SEQUENCE,
        "expected 1 to 5 steps of 3 numbers, found an array of shape [2, 2]",
    ),
    "a vector of another length": (
        npy_bytes(VALUES[0]),
        {"width": 4},
        "expected 4 numbers, found an array of shape [3]",
    ),
    "a matrix for a vector": (
        npy_bytes(np.ones((2, 2))),
        {"width": 4},
        "expected 4 numbers, found an array of shape [2, 2]",
    ),
    "not finite": (
        b"1,2,nan\n",
        SEQUENCE,
        "expected finite numbers, found NaN, infinity, or one too large for 32 bits",
    ),
    "too large": (
        npy_bytes(VALUES * 1e300),
        SEQUENCE,
        "expected finite numbers, found NaN, infinity, or one too large for 32 bits",
    ),
    "text in a table": (
        b"a,b,c\n1,2,3\n1,off,3\n",
        SEQUENCE,
        "line 3: column 2: expected a number, found 'off'",
    ),
    "an empty cell": (b"1,2,3\n4,,6\n", SEQUENCE, "line 2: column 2: expected a number, found ''"),
    "rows of several widths": (
        b"1,2,3\n4,5\n",
        SEQUENCE,
        "expected rows of equal width, found 2 to 3 columns",
    ),
    "a column that is not there": (
        TABLE,
        {"columns": ["acc z"], "longest": 5},
        "expected the column 'acc z', found time, acc x, acc y",
    ),
    "a place that is not there": (
        b"1,2\n3\n",
        {"columns": [1], "longest": 5},
        "line 2: expected a column 2, found 1 columns",
    ),
    "another encoding": (
        "Temperatur °C\n1\n".encode("latin-1"),
        SEQUENCE,
        "expected a .npy file or a table in UTF-8, found byte 0xb0 at position 11",
    ),
    "an open quotation": (b'"1,2,3\n', SEQUENCE, "expected a CSV table, found unexpected end of data"),
    "text in an array": (npy_bytes(np.array(["a", "b"])), SEQUENCE, "expected numbers, found an array of <U1"),
    "complex numbers": (npy_bytes(VALUES * 1j), SEQUENCE, "expected numbers, found an array of complex128"),
}


@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_line(fault):
    data, keys, expected = BAD[fault]
    assert line(data, **keys) == expected


def test_objects_are_never_unpickled():
    told = line(npy_bytes(np.array([{"a": 1}], dtype=object)), **SEQUENCE)
    assert told.startswith("expected a complete .npy file, found Object arrays cannot be loaded")


def test_a_cut_or_flipped_array_is_told_or_read_but_never_a_traceback():
    data = npy_bytes(VALUES)
    for size in range(1, len(data), 5):
        assert "expected " in line(data[:size], **SEQUENCE)
    for place in range(6, 128):
        damaged = data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :]
        try:
            read(damaged, **SEQUENCE)
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, r"expected the number of values per step or vector \(or columns\), found neither"),
        ({"width": 3, "columns": ["a"]}, r"expected as many as width \(3\), found 1"),
        ({"width": 3, "longer": "cut"}, "expected its default, refuse, for a vector"),
        ({"width": 0}, "greater than or equal to 1"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, words):
    with pytest.raises(ValidationError, match=words):
        SeriesParams(**keys)
