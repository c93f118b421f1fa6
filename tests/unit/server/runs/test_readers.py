"""What was written as a mapping is read back as one, or as nothing, whatever has become of the file."""

import pytest

from server.runs.directory import RunDirectory
from server.runs.readers import LONGEST, json_in, json_mapping, yaml_in, yaml_mapping
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
