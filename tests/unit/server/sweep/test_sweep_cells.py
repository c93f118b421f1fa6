"""The cells of a sweep: which there are, in which order, with which config, hash and folder; faults before any run."""

import pytest
import yaml

from fedrecon_core.errors import ConfigError, UsageError
from server.runs.setup import load_config
from server.sweep.choices import chosen
from server.sweep.identity import config_sha256, written_sha256
from server.sweep.spec import read_definition
from server.sweep.trials import matrix
from server.trackers.choice import untracked_unless_asked
from tests.helpers.federation import toy_settings
from tests.helpers.sweeps import write_sweep

pytestmark = pytest.mark.quick

TOY = toy_settings(recovery={"name": "fedrecon", "weight": 0.5}, engine={"name": "inprocess", "workers": 2})


def trials_of(folder, settings=(), **keys):
    path = write_sweep(folder, TOY, **keys)
    return matrix(read_definition(path), folder, settings)


def test_trials_stand_in_the_order_of_the_parameters_with_the_seed_last(tmp_path):
    trials = trials_of(tmp_path, axes={"seed": [2, 1], "recovery": ["zero", "mask"]})
    assert [trial.title for trial in trials] == [
        "recovery=zero, seed=2",
        "recovery=zero, seed=1",
        "recovery=mask, seed=2",
        "recovery=mask, seed=1",
    ]
    assert [(trial.config.recovery.name, trial.config.seed) for trial in trials] == [
        ("zero", 2),
        ("zero", 1),
        ("mask", 2),
        ("mask", 1),
    ]


def test_a_later_parameter_counts_over_an_earlier_one_over_set_over_the_base(tmp_path):
    axes = {
        "first": {"a": {"rounds": 5, "sites.count": 5}, "b": {"sites": {"count": 6}}},
        "second": {"x": {"sites.count": 7}, "y": {}},
    }
    trials = trials_of(tmp_path, set={"rounds": 4, "sites": {"count": 4}, "local.task": {"lr": 0.5}}, axes=axes)
    assert [(trial.config.rounds, trial.config.sites.count) for trial in trials] == [(5, 7), (5, 5), (4, 7), (4, 6)]
    assert {trial.config.local.task.lr for trial in trials} == {0.5}
    assert {trial.config.local.task.batch for trial in trials} == {64}  # a dotted key sets its value whole


def test_a_section_that_a_later_parameter_sets_whole_drops_what_set_put_into_it(tmp_path):
    axes = {"level": {"none": {"missing.train": {"level": "none"}}}}
    (trial,) = trials_of(tmp_path, set={"missing.train.level": "sample", "missing.train.rate": 0.5}, axes=axes)
    assert (trial.config.missing.train.level, trial.config.missing.train.rate) == ("none", 0.0)


def test_settings_of_the_command_count_over_all_parameters(tmp_path):
    trials = trials_of(
        tmp_path, settings=["rounds=9"], axes={"length": {"a": {"rounds": 5, "sites.count": 3}, "b": {}}}
    )
    assert [trial.config.rounds for trial in trials] == [9, 9]


def test_a_trial_has_the_config_of_the_run_with_the_same_settings(tmp_path):
    trials = trials_of(tmp_path, axes={"recovery": ["mask"], "seed": [3]})
    config = load_config(tmp_path / "base.yaml", ["recovery.name=mask", "seed=3", "engine={name: inprocess}"])
    assert trials[0].config == untracked_unless_asked(config)


def test_each_value_of_one_parameter_may_have_a_base_with_a_root_of_its_own(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "data").mkdir(parents=True)
        raw = {**TOY, "name": name, "data": {"name": "toy", "root": "data"}}
        (tmp_path / name / "run.yaml").write_text(yaml.safe_dump(raw))
    axes = {"data": {"a": {"base": "a/run.yaml"}, "b": {"base": "b/run.yaml"}}}
    trials = trials_of(tmp_path, base=None, axes=axes)
    assert [trial.config.name for trial in trials] == ["a", "b"]
    assert [trial.config.data.root for trial in trials] == [str(tmp_path / name / "data") for name in ("a", "b")]


def test_restrictions_thin_the_matrix(tmp_path):
    only = [
        {"where": {"recovery": "zero"}, "keep": {"seed": [0]}},
        {"where": {"seed": 2}, "keep": {"recovery": "mask"}},
    ]
    trials = trials_of(tmp_path, axes={"recovery": ["mask", "zero"], "seed": [0, 1, 2]}, only=only)
    assert [trial.slug for trial in trials] == ["mask-seed0", "mask-seed1", "mask-seed2", "zero-seed0"]


def test_a_part_of_the_trials_can_be_chosen(tmp_path):
    trials = trials_of(tmp_path, axes={"recovery": ["mask", "zero"], "seed": [0, 1, 2]})
    known = {"recovery": ["mask", "zero"], "seed": ["0", "1", "2"]}
    found = chosen(trials, known, ["seed=0,2", "recovery=zero", "seed=1"])
    assert [trial.slug for trial in found] == ["zero-seed0", "zero-seed1", "zero-seed2"]
    for text, words in (
        ("seed", "--only expects axis=level,level, found 'seed'"),
        ("seed=", "--only expects axis=level,level, found 'seed='"),
        ("sed=1", "--only: unknown axis 'sed'; known: recovery, seed. Did you mean 'seed'?"),
        ("seed=7", "--only.seed: unknown level '7'; known: 0, 1, 2."),
    ):
        with pytest.raises(UsageError) as raised:
            chosen(trials, known, [text])
        assert str(raised.value) == words
    with pytest.raises(UsageError, match="no cell of this sweep is left"):
        chosen(trials[:1], known, ["recovery=zero"])


@pytest.mark.parametrize(
    ("keys", "settings", "words"),
    [
        (
            {"axes": {"recovery": ["mask", "maks"]}},
            [],
            r"^cell recovery=maks: recovery: unknown recovery 'maks'.*'mask'",
        ),
        ({"set": {"rouns": 3}}, [], r"^all 4 cells: rouns: unknown key \(found 3\)\. .* 'rounds'\?"),
        ({}, ["rounds=many"], r"^all 4 cells: rounds: expected a valid integer, found 'many'"),
        (
            {"axes": {"recovery": {"a": {"recovery": "mask"}, "b": {"rouns": 3}}, "seed": [0, 1]}},
            [],
            r"^the 2 cells with recovery=b: rouns: unknown key",
        ),
        ({}, ["rounds"], r"--set expects key=value, found 'rounds'"),
        ({"base": "nowhere.yaml"}, [], r"^all 4 cells: base: expected a run config, .*nowhere\.yaml$"),
        (
            {"set": {"engine": {"name": "ray"}}},
            [],
            r"^set: expected no key of the engine, found engine\.name: every cell is a run in one process; --workers",
        ),
        ({}, ["engine.workers=4"], r"^--set: expected no key of the engine, found engine\.workers: "),
        ({}, ["seed=4"], r"^--set: the seed is an axis of this sweep; --only seed=\.\.\. runs some of its levels"),
        ({"set": {"seed": 4}}, [], r"^set: the seed is an axis of this sweep"),
        ({"axes": {"rate": {"a": {"seed": 1}}, "seed": [1]}}, [], r"^axes\.rate\.a: the seed is an axis of this sweep"),
        (
            {"axes": {"length": {"a": {"rounds": 2}, "b": {}}}},
            [],
            r"^axes: the cells length=a and length=b have the same config: no axis changes anything between them",
        ),
        (
            {"axes": {"workers": {"a": {"rounds": 1}, "b": {"engine": "ray"}}}},
            [],
            r"^axes\.workers\.b: expected no key of the engine, found engine: ",
        ),
        ({"only": [{"keep": {"seed": 0}}, {"keep": {"seed": 1}}]}, [], r"^only: no cell of the matrix is left"),
    ],
)
def test_a_fault_is_one_line_before_anything_runs(tmp_path, keys, settings, words):
    with pytest.raises(ConfigError, match=words) as raised:
        trials_of(tmp_path, settings=settings, **keys)
    assert "\n" not in str(raised.value)


def test_the_hash_is_of_what_a_run_is_and_not_of_where_it_is_made(tmp_path):
    (tmp_path / "data").mkdir()
    config = load_config(write_base(tmp_path))
    here = config_sha256(config)
    assert len(here) == 64
    for settings in (["engine.workers=7"], ["engine.name=ray", "engine.ray_address=a:1"], ["data.root=data"]):
        assert config_sha256(load_config(tmp_path / "base.yaml", settings)) == here
    others = ["seed=9", "rounds=9", "recovery.weight=0.25", "name=other", "data.train=24", "device=auto"]
    assert len({here, *(config_sha256(load_config(tmp_path / "base.yaml", [one])) for one in others)}) == 7


def write_base(folder):
    return write_sweep(folder, TOY).with_name("base.yaml")


def test_a_config_that_was_written_is_known_again(tmp_path):
    config = load_config(write_base(tmp_path))
    path = tmp_path / "config.yaml"
    raw = {**yaml.safe_load(config.to_yaml()), "engine": {"name": "ray"}}
    raw["data"]["root"] = "/a/folder/of/another/machine"
    path.write_text(yaml.safe_dump(raw))
    assert written_sha256(path) == config_sha256(config)
    del raw["updates"]  # as written before that key existed
    path.write_text(yaml.safe_dump(raw))
    assert written_sha256(path) == config_sha256(config)
    for text in ("", "a: [", "- 1", "data: 3", yaml.safe_dump({**raw, "rounds": 0})):
        path.write_text(text)
        assert written_sha256(path) is None
    assert written_sha256(tmp_path / "nothing.yaml") is None


def test_trials_that_differ_in_the_root_of_the_data_alone_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    axes = {"data": {name: {"data.root": name} for name in ("a", "b")}}
    with pytest.raises(ConfigError, match=r"^axes: the cells data=a and data=b have configs that differ in data\.root"):
        trials_of(tmp_path, axes=axes)
    named = {"data": {name: {"data.root": name, "name": name} for name in ("a", "b")}}
    assert [trial.config.data.root for trial in trials_of(tmp_path, axes=named)] == [str(tmp_path / n) for n in "ab"]


def test_the_engine_of_the_base_is_left_to_single_runs_but_a_deployment_is_refused(tmp_path):
    path = write_sweep(tmp_path, {**TOY, "engine": {"name": "ray"}})
    assert {trial.config.engine.name for trial in matrix(read_definition(path), tmp_path)} == {"inprocess"}
    path = write_sweep(tmp_path, {**TOY, "engine": "deployment"})
    with pytest.raises(ConfigError, match=r"engine\.name: expected a simulation, found 'deployment'"):
        matrix(read_definition(path), tmp_path)
