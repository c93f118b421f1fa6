"""Features of texts (MobileBERT) and of series of numbers."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedrecon_core.errors import DataError
from fedrecon_core.preparation.features.base import RawItem
from fedrecon_core.preparation.features.mobilebert import MobileBert, MobileBertParams
from fedrecon_core.preparation.features.series import Series, SeriesParams
from tests.helpers.feature_mobilebert import VOCABULARY, write_model
from tests.helpers.features import npy_bytes

TEXTS = ("how are you doing", "fine!", "is your day fine?", "are you fine", "")
TOKENS = (
    ("[CLS]", "how", "are", "you", "do", "##ing", "[SEP]"),
    ("[CLS]", "fine", "!", "[SEP]"),
    ("[CLS]", "is", "your", "day", "fine", "?", "[SEP]"),
    ("[CLS]", "are", "you", "fine", "[SEP]"),
    ("[CLS]", "[SEP]"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "any name")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing may be looked up, let alone fetched."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))


@pytest.fixture
def copy(folder, tmp_path):
    """The model once more, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def make_feature(folder, **keys) -> MobileBert:
    return MobileBert(MobileBertParams(weights=str(folder), **keys))


def contents(*texts: str) -> list[RawItem]:
    return [RawItem(text.encode(), f"utterance {place}") for place, text in enumerate(texts)]


def line(folder, data: bytes = b"fine", **keys) -> str:
    with pytest.raises(DataError) as caught:
        make_feature(folder, **keys).extract([RawItem(data, "utterance 4")])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_are_the_last_hidden_states_of_the_tokens(folder):
    from transformers import MobileBertForPreTraining

    network = MobileBertForPreTraining.from_pretrained(folder).mobilebert.eval()
    for tokens, array in zip(TOKENS, make_feature(folder).extract(contents(*TEXTS)), strict=True):
        ids = torch.tensor([[VOCABULARY.index(token) for token in tokens]])
        with torch.no_grad():
            expected = network(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        assert array.shape == (len(tokens), 512) and array.dtype == np.float32
        np.testing.assert_allclose(array, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_array_hardly_depends_on_its_neighbours(folder):
    feature = make_feature(folder)
    many = [*TEXTS, *(" ".join(("fine", "you", "day")[: 1 + place % 3]) for place in range(40))]
    for text, array in zip(many, feature.extract(contents(*many)), strict=True):
        (alone,) = feature.extract(contents(text))
        np.testing.assert_allclose(array, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def test_a_long_text_is_cut_to_its_first_tokens_and_the_last_mark(folder):
    (array,) = make_feature(folder, longest=5).extract(contents("how are you fine ! ? fine"))
    (short,) = make_feature(folder).extract(contents("how are you"))
    np.testing.assert_allclose(array, short, rtol=1e-5, atol=1e-5)


def test_the_modality_is_a_sequence_of_tokens(folder):
    spec = make_feature(folder, longest=40).modality("text")
    assert (spec.kind, spec.shape, spec.scale) == ("sequence", (40, 512), "standard")


def test_extraction_leaves_random_numbers_threads_and_logging_as_they_were(folder):
    from transformers.utils import logging

    torch.manual_seed(5)
    before, level, threads = torch.random.get_rng_state(), logging.get_verbosity(), torch.get_num_threads()
    make_feature(folder).extract(contents("fine"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (logging.get_verbosity(), torch.get_num_threads()) == (level, threads)
    assert logging.is_progress_bar_enabled() and torch.is_grad_enabled()


def test_nothing_is_printed(folder, capfd):
    make_feature(folder).extract(contents("fine"))
    assert capfd.readouterr() == ("", "")


def test_the_fingerprint_is_that_of_network_and_words_wherever_they_lie(folder, copy, tmp_path):
    known = make_feature(folder).fingerprint()
    assert make_feature(copy).fingerprint() == known
    assert make_feature(folder, longest=7).fingerprint() != known
    assert make_feature(write_model(tmp_path / "other", seed=1)).fingerprint() != known
    words = (copy / "vocab.txt").read_text(encoding="utf-8")
    (copy / "vocab.txt").write_text(words.replace("fine", "good"), encoding="utf-8")
    assert make_feature(copy).fingerprint() != known


def test_the_cache_of_hugging_face_is_read(folder, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--google--mobilebert-uncased"
    message = "`hf download google/mobilebert-uncased` downloads the model, and weights: FOLDER names another place"
    with pytest.raises(DataError) as caught:
        MobileBert(MobileBertParams()).fingerprint()
    assert str(caught.value) == f"mobilebert: expected config.json in {home}, found none; {message}"
    shutil.copytree(folder, home / "snapshots" / "abc123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc123")
    (array,) = MobileBert(MobileBertParams()).extract(contents("fine"))
    np.testing.assert_array_equal(array, make_feature(folder).extract(contents("fine"))[0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors or pytorch_model.bin"),
        ("vocab.txt", "tokenizer.json or vocab.txt"),
    ],
)
def test_a_missing_file_is_reported(name, words, copy):
    (copy / name).unlink()
    assert line(copy).startswith(f"mobilebert: expected {words} in {copy}, found none; `hf download ")


def test_weights_of_the_older_form_are_read(folder, copy):
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    (array,) = make_feature(copy).extract(contents("fine"))
    np.testing.assert_array_equal(array, make_feature(folder).extract(contents("fine"))[0])


def test_weights_that_lack_a_part_are_refused_since_chance_would_fill_it(copy):
    from safetensors.torch import load_file, save_file

    state = load_file(copy / "model.safetensors")
    lost = [name for name in state if "layer.1.attention" in name]
    save_file({name: state[name] for name in state if name not in lost}, copy / "model.safetensors", {"format": "pt"})
    message = line(copy)
    assert message.startswith(
        f"{copy}: expected MobileBERT in the format of Hugging Face, found no weights encoder.layer.1."
    )
    assert f"(and {len(lost) - 1} more) in model.safetensors" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("data", [b"", b"{", b"<html>not found</html>"], ids=["empty", "cut", "another file"])
def test_damaged_files_are_reported_in_one_line(name, data, copy):
    (copy / name).write_bytes(data)
    assert line(copy).startswith(f"{copy}: expected MobileBERT in the format of Hugging Face, found ")


def test_more_words_than_the_network_knows_are_refused(copy):
    with (copy / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("unheard\n")
    known = len(VOCABULARY)
    assert f"found a vocabulary of {known + 1} words for a network with {known}" in line(copy)


def test_a_network_of_another_width_is_refused(tmp_path):
    narrow = write_model(tmp_path / "narrow", hidden_size=256)
    assert line(narrow).endswith("found hidden states of 256 numbers, not 512")


def test_more_tokens_than_the_network_has_places_are_refused(folder, copy):
    places = json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    message = f"mobilebert: longest: expected at most {places}, the limit of the weights, found {places + 1}"
    assert line(copy, longest=places + 1) == message


def test_text_in_another_encoding_is_reported(folder):
    message = "utterance 4: expected text in UTF-8, found byte 0xe9 at position 3"
    assert line(folder, "café".encode("latin-1")) == message


# --- series ----------------------------------------------------------------------------------------------------------


VALUES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]])
TABLE = b"time,acc x,acc y\n1,2,3\n4,5,6.5\n"


def read(data: bytes, **keys) -> np.ndarray:
    (array,) = Series(SeriesParams(**keys)).extract([RawItem(data, "ward 3")])
    assert array.dtype == np.float32
    return array


def series_line(data: bytes, **keys) -> str:
    with pytest.raises(DataError) as caught:
        read(data, **keys)
    return str(caught.value).removeprefix("ward 3: ")


@pytest.mark.quick
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", ">f8", "<i4", "u1", "?"])
def test_arrays_of_every_type_of_number_are_sequences(dtype):
    values = VALUES.astype(dtype)
    np.testing.assert_array_equal(read(npy_bytes(values), width=3, longest=5), values.astype(np.float32))
    transposed = np.asfortranarray(values)
    np.testing.assert_array_equal(read(npy_bytes(transposed), width=3, longest=5), values.astype(np.float32))


@pytest.mark.quick
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


@pytest.mark.quick
def test_columns_are_taken_by_name_or_place_in_the_order_of_the_key():
    expected = VALUES[:, [2, 0]].astype(np.float32)
    np.testing.assert_array_equal(read(TABLE, columns=["acc y", "time"], longest=2), expected)
    np.testing.assert_array_equal(read(TABLE, columns=[2, 0], longest=2), expected)
    numbers = b"1,2,3\n" + TABLE.partition(b"\n")[2]
    np.testing.assert_array_equal(read(numbers, columns=["3", "1"], longest=2), expected)  # names may be numbers


@pytest.mark.quick
def test_another_delimiter_is_a_key():
    np.testing.assert_array_equal(read(TABLE.replace(b",", b";"), width=3, longest=2, delimiter=";"), VALUES)


@pytest.mark.quick
@pytest.mark.parametrize(
    "data",
    [npy_bytes(VALUES[0]), npy_bytes(VALUES[:1]), npy_bytes(VALUES[0][:, None]), b"a,b,c\n1,2,3\n", b"1\n2\n3\n"],
    ids=["vector", "row", "column", "table with a row", "table with a column"],
)
def test_a_vector_may_lie_as_a_row_or_as_a_column(data):
    np.testing.assert_array_equal(read(data, width=3), [1, 2, 3])


@pytest.mark.quick
def test_a_sequence_of_single_numbers_need_not_say_that_it_has_one_column():
    np.testing.assert_array_equal(read(npy_bytes(VALUES[0]), width=1, longest=9), [[1], [2], [3]])


@pytest.mark.quick
def test_a_longer_sequence_is_refused_unless_it_may_be_cut():
    expected = "expected 1 to 1 steps of 3 numbers, found an array of shape [2, 3]"
    assert series_line(TABLE, width=3, longest=1) == expected
    np.testing.assert_array_equal(read(TABLE, width=3, longest=1, longer="cut"), VALUES[:1])


@pytest.mark.quick
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


@pytest.mark.quick
@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_one_line(fault):
    data, keys, expected = BAD[fault]
    assert series_line(data, **keys) == expected


@pytest.mark.quick
def test_objects_are_never_unpickled():
    message = series_line(npy_bytes(np.array([{"a": 1}], dtype=object)), **SEQUENCE)
    assert message.startswith("expected a complete .npy file, found Object arrays cannot be loaded")


@pytest.mark.quick
def test_a_cut_or_flipped_array_is_told_or_read_but_never_a_traceback():
    data = npy_bytes(VALUES)
    for size in range(1, len(data), 5):
        assert "expected " in series_line(data[:size], **SEQUENCE)
    for place in range(6, 128):
        damaged = data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :]
        try:
            read(damaged, **SEQUENCE)
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.quick
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
