"""What a person types: values of YAML that are none, paths that cannot be."""

import pytest
import yaml

from fedrecon_core.config.loading import load, override, read_yaml
from fedrecon_core.errors import ConfigError
from fedrecon_core.files import user_path

pytestmark = pytest.mark.quick

ODD = {
    "a date that is none": "a: 2020-13-45",
    "a number that is none": "a: 0x_",
    "a key that is a list": "? [a]\n: 1",
    "no end of nesting": "a: " + "[" * 1200,
    "a tag": "a: !!int ''",
    "a truth that is none": "a: !!bool x",
    "a repeated key": "a: 1\na: 2",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_yaml_is_one_kind_of_error_and_one_line(text, tmp_path):
    with pytest.raises(yaml.YAMLError):
        load(text)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as told:
        read_yaml(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", ["2020-13-45", "0x_", "[" * 1200, "!!bool x"])
def test_odd_settings_are_one_line(value):
    with pytest.raises(ConfigError, match="the value must be YAML"):
        override({}, [f"seed={value}"])


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_told_with_its_key(text, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.root: expected a path, found '"):
        user_path(text, tmp_path, "data.root")


def test_paths_are_relative_to_their_base(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a", tmp_path / "b", "k") == tmp_path / "a"
    assert user_path("../a", tmp_path / "b", "k") == tmp_path / "a"
