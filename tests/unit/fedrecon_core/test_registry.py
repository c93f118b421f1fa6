"""Registries: names to classes, helpful words for unknown names, discovery by import."""

import sys

import pytest

from fedrecon_core.errors import ConfigError, did_you_mean
from fedrecon_core.registry import Registry, discover

pytestmark = pytest.mark.quick


@pytest.fixture
def animals() -> Registry:
    registry = Registry("animal")
    for name in ("zebra", "horse"):
        registry.register(name)(type(name.title(), (), {}))
    return registry


def test_a_class_is_found_under_its_name_and_names_are_sorted(animals):
    assert animals.get("horse").__name__ == "Horse"
    assert animals.names() == ["horse", "zebra"]
    assert [(name, cls.__name__) for name, cls in animals.items()] == [("horse", "Horse"), ("zebra", "Zebra")]


def test_the_decorator_hands_the_class_back(animals):
    cls = type("Cow", (), {})
    assert animals.register("cow")(cls) is cls


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(animals):
    with pytest.raises(ConfigError) as caught:
        animals.get("hose")
    assert str(caught.value) == "unknown animal 'hose'; known: horse, zebra. Did you mean 'horse'?"


def test_a_part_of_one_name_alone_is_near_to_it():
    known = ["accuracy", "macro_auroc", "macro_f1"]
    assert did_you_mean("f1", known) == "Did you mean 'macro_f1'?"
    assert did_you_mean("o", known) == did_you_mean("f1", ["macro_f1", "micro_f1"]) == ""


def test_a_name_near_to_none_gets_no_hint(animals):
    with pytest.raises(ConfigError) as caught:
        animals.get("xyzzy")
    assert str(caught.value) == "unknown animal 'xyzzy'; known: horse, zebra."


def test_a_second_class_under_a_name_is_refused_and_the_first_stays(animals):
    first = animals.get("horse")
    with pytest.raises(ValueError, match=r"animal 'horse' is already .*Horse"):
        animals.register("horse")(type("Pony", (), {}))
    assert animals.get("horse") is first


def test_the_same_class_may_register_again_as_when_a_module_is_imported_twice(animals):
    again = type("Horse", (), {})
    animals.register("horse")(again)
    assert animals.get("horse") is again


def test_a_class_of_the_same_name_from_another_module_is_refused(animals):
    """Who copies a method's file and forgets to rename it must not replace the original."""
    with pytest.raises(ValueError, match=r"animal 'horse' is already .*Horse, so it cannot be copied\.Horse too"):
        animals.register("horse")(type("Horse", (), {"__module__": "copied"}))
    assert animals.get("horse").__module__ == __name__


def test_a_forgotten_name_is_unknown(animals):
    animals.forget("horse")
    animals.forget("never was")
    assert animals.names() == ["zebra"]


def test_discover_imports_every_module_of_the_packages_it_is_given(tmp_path, monkeypatch):
    for package in ("found_one", "found_two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "method.py").touch()
        (tmp_path / package / "deep").mkdir()
        (tmp_path / package / "deep" / "__init__.py").touch()
        (tmp_path / package / "deep" / "method.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        discover(["found_one"])
        assert {"found_one.method", "found_one.deep.method"} <= {*sys.modules}
        assert "found_two.method" not in sys.modules
    finally:
        for name in ("found_one", "found_one.method", "found_one.deep", "found_one.deep.method"):
            sys.modules.pop(name, None)


def test_discover_of_a_package_that_is_not_there_is_an_import_error():
    with pytest.raises(ImportError):
        discover(["fedrecon_core.nowhere"])


def test_a_file_that_cannot_be_imported_is_one_line_with_its_place(tmp_path, monkeypatch):
    package = tmp_path / "broken_methods"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "half.py").write_text("x = 1\nclass Half(Params): ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"broken_methods.half cannot be imported: NameError: .*half.py, line 2"):
        discover(["broken_methods"])
