"""Readers of run files: a mapping is read back as written, a damaged file as nothing; and the format of numbers."""

import math

import pytest

from server.runs.directory import RunDirectory
from server.runs.formatting import listing, percent, seconds, size
from server.runs.readers import LONGEST, json_in, json_mapping, yaml_in, yaml_mapping
from server.runs.record import number
from server.sweep.trials import StoredConfig, read_stored_config

DEEP = 100_000
NO_JSON = ["", "{", "[]", "null", "3", "NaN", '{"a": 1} x', "1" * 5000, '{"a":' * DEEP, "[" * DEEP, "\x00\ud7ff"]
NO_YAML = [
    "",
    "[",
    "3",
    "- a",
    "a: 2020-99-99",
    "a: !!bool x",
    'a: !!int ""',
    "? [a]\n: 1\n? {b: 1}\n: 2",
    "a: !!python/object:os.system",
    "a: *b",
    "{a: " * DEEP,
    "a: " + "[" * DEEP + "]" * DEEP,
    "a: " + "[" * (LONGEST // 2 - 2) + "]" * (LONGEST // 2 - 2) + " x",
    "\x00\ud7ff",
]


@pytest.mark.quick
def test_what_is_whole_is_read():
    assert json_mapping('{"a": [1, null]}') == {"a": [1, None]}
    assert yaml_mapping("a: [1, null]\nb: 2020-09-09x\n") == {"a": [1, None], "b": "2020-09-09x"}
    long = {f"key_{n}": n for n in range(LONGEST // 10)}
    assert yaml_mapping("".join(f"{key}: {value}\n" for key, value in long.items())) == long


@pytest.mark.quick
@pytest.mark.parametrize("text", NO_JSON, ids=lambda text: repr(text[:12]))
def test_json_that_holds_no_object_is_nothing(tmp_path, text):
    assert json_mapping(text) is None
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    assert json_in(tmp_path / "result.json") == {}
    assert not RunDirectory(tmp_path).completed()


@pytest.mark.parametrize("text", NO_YAML, ids=lambda text: repr(text[:12]))
def test_yaml_that_holds_no_mapping_is_nothing(tmp_path, text):
    path = tmp_path / "config.yaml"
    assert yaml_mapping(text) is None
    path.write_text(text, encoding="utf-8")
    assert (yaml_in(path), read_stored_config(path)) == ({}, StoredConfig())


@pytest.mark.quick
@pytest.mark.parametrize("read", [json_in, yaml_in])
def test_a_file_that_is_not_there_or_none_is_nothing(tmp_path, read):
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    assert [read(tmp_path / name) for name in ("nowhere", ".", "latin", "latin/below")] == [{}] * 4


# --- numbers as text ------------------------------------------------------------------------------------------------


def test_numbers_are_formatted_for_people() -> None:
    assert [percent(0.6214), percent(None), size(41_230_000), size(512)] == ["62.1%", "–", "41.2 MB", "512 B"]
    assert [seconds(0.42), seconds(31.5), seconds(125), seconds(11_520)] == [
        "0.42 s",
        "31.5 s",
        "2 min 05 s",
        "3 h 12 min",
    ]
    assert listing(["a", "b", "c"]) == "a, b and c" and listing(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert listing(["a=1, b=2", "a=2, b=3", "c"]) == "a=1, b=2; a=2, b=3 and c"
    assert [number(True), number("3"), number(math.inf), number(10**400), number(2)] == [None, None, None, None, 2.0]
