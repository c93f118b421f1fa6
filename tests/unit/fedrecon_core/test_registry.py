"""Registries of classes by name, discovery by import, and plugins: which packages a config uses and a site imports."""

import json
import sys

import pytest

from client.site import config_of
from fedrecon_core import plugins
from fedrecon_core.config import parse
from fedrecon_core.errors import ConfigError, did_you_mean
from fedrecon_core.plugins import MissingPluginError
from fedrecon_core.registry import METRICS, RECOVERIES, Registry, discover
from server.runs.provenance import changes, provenance_here
from server.runs.setup import check_trackers
from server.trackers.base import TRACKER_PACKAGES, TRACKERS
from strategies.code_hash import _code_hash, code_hash
from tests.helpers import plugin
from tests.helpers.contract_support import restored
from tests.helpers.runs import caller, refused
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.quick

NAME = "fedrecon_toy_plugin"
FILES = {f"{NAME}/__init__.py": "", f"{NAME}/ramp.py": plugin.RECOVERY, f"{NAME}/metric.py": plugin.METRIC}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a plugin made of ``files`` for the length of the test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files=FILES, name=NAME, value=None):
        plugin.write_distribution(tmp_path, name, files, value)
        monkeypatch.syspath_prepend(str(tmp_path / "anew"))  # the search path is what the entry points are read for

    with plugin.forgotten(NAME, "fedrecon_other"):
        yield write
    _code_hash.cache_clear()


def settings(**changes):
    return toy_settings("ramp", **{"plugins": [NAME], **changes})


# --- a plugin that the config names -----------------------------------------------------------------------------------


def test_a_named_plugin_adds_its_classes(install):
    install()
    config = parse(settings(evaluate={"select": "worst_recall"}))
    assert config.recovery.slope == 0.5
    assert config.plugins == (NAME,)


def test_the_config_keeps_its_plugins(install):
    install()
    config = parse(settings())
    assert f"plugins:\n- {NAME}\n" in config.to_yaml()
    assert parse(config.model_dump(mode="json")) == config


def test_a_config_without_plugins_does_not_name_the_key():
    config = parse(toy_settings())
    assert config.plugins == ()
    assert "plugins" not in config.to_yaml()
    assert "plugins" not in json.loads(config.model_dump_json(exclude={"tracking"}))


def test_a_plugin_may_be_one_module(install):
    install({f"{NAME}.py": plugin.RECOVERY})
    assert parse(settings()).recovery.name == "ramp"
    assert list(plugins.sources([NAME])) == [f"{NAME}.py"]


def test_a_plugin_may_be_a_part_of_a_package(install):
    files = {"fedrecon_other/__init__.py": "", "fedrecon_other/parts/__init__.py": "raise OSError('not imported')"}
    files |= {"fedrecon_other/methods.py": plugin.RECOVERY}
    install(files, value="fedrecon_other.methods")
    assert parse(settings()).recovery.name == "ramp"
    assert len(plugins.sources([NAME])) == 3, "the hash is of the whole package"


def test_subpackages_of_a_plugin_are_imported_but_not_its_main_module(install):
    files = {f"{NAME}/__init__.py": "", f"{NAME}/__main__.py": "raise OSError('not imported')"}
    files |= {
        f"{NAME}/parts/__init__.py": "",
        f"{NAME}/parts/deep/__init__.py": "",
        f"{NAME}/parts/deep/ramp.py": plugin.RECOVERY,
    }
    install(files)
    assert parse(settings()).recovery.name == "ramp"
    assert sys.modules[f"{NAME}.parts.deep.ramp"].__file__ == str(plugins.sources([NAME])[f"{NAME}/parts/deep/ramp.py"])


def test_a_plugin_that_cannot_be_imported_is_one_clear_line(install):
    install({f"{NAME}/__init__.py": "", f"{NAME}/wrong.py": "import math\nmath.no_such_thing\n"})
    with pytest.raises(
        ConfigError, match=rf"^{NAME}\.wrong cannot be imported: AttributeError: .*wrong\.py, line 2\)$"
    ):
        parse(settings())


def test_a_plugin_cannot_take_a_name_that_is_there(install):
    install(
        {f"{NAME}/__init__.py": "", f"{NAME}/ramp.py": plugin.RECOVERY.replace('register("ramp")', 'register("mask")')}
    )
    with pytest.raises(ConfigError, match=r"recovery 'mask' is already fedrecon_core\.recovery\.mask\.Mask"):
        parse(settings())


def test_a_tracker_of_a_plugin_is_found(install):
    tracker = f"""
        from server.trackers.base import TRACKERS, Tracker

        @TRACKERS.register("{NAME}")
        class Toy(Tracker):
            def start(self, run):
                return {{}}
            def metrics(self, round_, values):
                pass
            def finish(self, result):
                pass
            def close(self):
                pass
    """
    install({f"{NAME}/__init__.py": "", f"{NAME}/tracker.py": tracker})
    discover(TRACKER_PACKAGES)
    with restored(TRACKERS):
        check_trackers(parse(toy_settings(plugins=[NAME], tracking={NAME: {}})))
        with pytest.raises(ConfigError, match=f"tracking.{NAME}.x: unknown key"):
            check_trackers(parse(toy_settings(plugins=[NAME], tracking={NAME: {"x": 1}})))


# --- a plugin that it does not name -----------------------------------------------------------------------------------


def test_a_name_of_an_installed_plugin_comes_with_a_hint_and_nothing_is_imported(install):
    install()
    hint = rf"recovery: unknown recovery 'ramp'; known: fedrecon, .*\. The installed plugin '{NAME}' offers it: "
    with pytest.raises(ConfigError, match=rf"{hint}add plugins: \[{NAME}\] to the config\.$"):
        parse(settings(plugins=[]))
    assert NAME not in sys.modules


def test_a_plugin_that_another_config_uses_changes_nothing(install):
    before = parse(toy_settings()).to_yaml()
    install()
    parse(settings())
    assert "ramp" in RECOVERIES.names() and "worst_recall" in METRICS.names()
    assert parse(toy_settings()).to_yaml() == before
    assert "ramp" not in RECOVERIES.names() and "worst_recall" not in METRICS.names()
    with pytest.raises(ConfigError, match="unknown recovery 'ramp'"):
        parse(settings(plugins=[]))
    assert parse(settings()).recovery.name == "ramp"


def test_a_module_that_is_no_plugin_is_not_imported(install, tmp_path):
    install()
    (tmp_path / "fedrecon_other.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    with pytest.raises(
        MissingPluginError, match=r"^plugins: fedrecon_other is not installed for .*; install a package "
    ):
        parse(settings(plugins=["fedrecon_other"]))
    assert not (tmp_path / "imported").exists()


def test_a_plugin_that_is_not_installed_comes_with_the_nearest_one(install):
    install()
    with pytest.raises(MissingPluginError, match=f"Did you mean '{NAME}'"):
        parse(settings(plugins=[NAME.removesuffix("n")]))
    with pytest.raises(MissingPluginError, match=f"Installed: {NAME}"):
        parse(settings(plugins=["wizard"]))


@pytest.mark.parametrize(
    ("value", "words"), [("ramp", "plugins: expected a list"), ([3], "plugins.0: expected a valid string")]
)
def test_plugins_are_a_list_of_names(value, words):
    with pytest.raises(ConfigError, match=words):
        parse(toy_settings(plugins=value))


def test_a_site_without_the_plugin_reports_it_and_nothing_about_itself():
    with pytest.raises(MissingPluginError) as raised:
        config_of(json.dumps(settings()))
    expected = f"plugins: {NAME} is not installed at this site; install a package with an entry point of this name"
    assert str(raised.value).startswith(expected)
    assert sys.executable not in str(raised.value)


# --- provenance -------------------------------------------------------------------------------------------------------


def test_the_code_hash_is_that_of_the_plugin_too(install, tmp_path):
    own = code_hash()
    install()
    assert code_hash() == own
    first = code_hash([NAME])
    assert first != own
    (tmp_path / NAME / "ramp.py").write_text("# changed\n")
    assert code_hash([NAME]) == first, "the hash is of the code that this process runs"
    _code_hash.cache_clear()
    assert code_hash([NAME]) not in (first, own)


def test_a_resume_with_another_version_of_a_plugin_is_a_change(install):
    install()
    now = provenance_here("cpu", [NAME])
    assert now["versions"][NAME] == "1.0"
    then = {**now, "versions": {**now["versions"], NAME: "0.9"}}
    assert [(change.what, change.then, change.now) for change in changes(then, now)] == [(NAME, "0.9", "1.0")]
    assert [change.what for change in changes(then, provenance_here("cpu"))] == ["code"]


# --- commands on data, which have no config --------------------------------------------------------------------------


def test_data_list_shows_the_data_sets_of_plugins(install, monkeypatch, capsys):
    dataset = '''
        """Data set `plugged`: made up."""
        from fedrecon_core.registry import DATASETS
        from tests.helpers.toy import Toy

        @DATASETS.register("plugged")
        class Plugged(Toy):
            pass
    '''
    install({f"{NAME}/__init__.py": "", f"{NAME}/data.py": dataset})
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = caller(monkeypatch, capsys)("data", "list")
    assert (code, err) == (0, "")
    assert f"made up (plugins: [{NAME}])" in out


def test_the_command_refuses_a_plugin_that_is_not_installed(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    refused(caller(monkeypatch, capsys)("check", "--set", "plugins=[wizard]"), "plugins: wizard is not installed for")


# --- registries ------------------------------------------------------------------------------------------------------


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
