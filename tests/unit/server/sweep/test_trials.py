"""The trials of a sweep: their configs, hashes and order; faults in configs and data before the first trial starts."""

from pathlib import Path

import pytest
import yaml

import fedrecon_core.data.dataset as dataset
from fedrecon_core.errors import ConfigError, DataError, UsageError
from server.runs.setup import load_config
from server.sweep.parameters import select
from server.sweep.spec import read_definition
from server.sweep.trials import (
    Faults,
    StoredConfig,
    build_trials,
    check_data,
    config_sha256,
    data_fault,
    read_stored_config,
)
from server.trackers.choice import untracked_unless_asked
from tests.helpers.sweeps import write_sweep
from tests.helpers.toy import toy_settings

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
TRIALS = {"results/recoveries": 395, "results/pairs": 48, "polydigits/recoveries": 80}


@pytest.mark.parametrize("name", TRIALS)
def test_a_committed_sweep_has_the_number_of_trials_in_its_header(name):
    path = CONFIGS / f"{name}.yaml"
    assert len(build_trials(read_definition(path), path.parent)) == TRIALS[name]
    assert f"# {TRIALS[name]} trials" in path.read_text(encoding="utf-8")


TOY = toy_settings(recovery={"name": "fedrecon", "weight": 0.5}, engine={"name": "inprocess", "workers": 2})


def trials_of(folder, settings=(), **keys):
    path = write_sweep(folder, TOY, **keys)
    return build_trials(read_definition(path), folder, settings)


def test_trials_are_in_the_order_of_the_parameters_with_the_seed_last(tmp_path):
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


def test_settings_of_later_parameters_override_earlier_ones_and_set_and_the_base(tmp_path):
    axes = {
        "first": {"a": {"rounds": 5, "sites.count": 5}, "b": {"sites": {"count": 6}}},
        "second": {"x": {"sites.count": 7}, "y": {}},
    }
    trials = trials_of(tmp_path, set={"rounds": 4, "sites": {"count": 4}, "local.task": {"lr": 0.5}}, axes=axes)
    assert [(trial.config.rounds, trial.config.sites.count) for trial in trials] == [(5, 7), (5, 5), (4, 7), (4, 6)]
    assert {trial.config.local.task.lr for trial in trials} == {0.5}
    assert {trial.config.local.task.batch for trial in trials} == {64}  # a dotted key sets its value whole


def test_a_section_that_a_parameter_sets_as_a_whole_drops_keys_of_set(tmp_path):
    axes = {"level": {"none": {"missing.train": {"level": "none"}}}}
    (trial,) = trials_of(tmp_path, set={"missing.train.level": "sample", "missing.train.rate": 0.5}, axes=axes)
    assert (trial.config.missing.train.level, trial.config.missing.train.rate) == ("none", 0.0)


def test_settings_of_the_command_override_all_parameters(tmp_path):
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


def test_restrictions_remove_trials(tmp_path):
    only = [
        {"where": {"recovery": "zero"}, "keep": {"seed": [0]}},
        {"where": {"seed": 2}, "keep": {"recovery": "mask"}},
    ]
    trials = trials_of(tmp_path, axes={"recovery": ["mask", "zero"], "seed": [0, 1, 2]}, only=only)
    assert [trial.slug for trial in trials] == ["mask-seed0", "mask-seed1", "mask-seed2", "zero-seed0"]


def test_selecting_trials(tmp_path):
    trials = trials_of(tmp_path, axes={"recovery": ["mask", "zero"], "seed": [0, 1, 2]})
    known = {"recovery": ["mask", "zero"], "seed": ["0", "1", "2"]}
    found = select(trials, known, ["seed=0,2", "recovery=zero", "seed=1"])
    assert [trial.slug for trial in found] == ["zero-seed0", "zero-seed1", "zero-seed2"]
    for text, words in (
        ("seed", "--only expects axis=value,value, found 'seed'"),
        ("seed=", "--only expects axis=value,value, found 'seed='"),
        ("sed=1", "--only: unknown axis 'sed'; known: recovery, seed. Did you mean 'seed'?"),
        ("seed=7", "--only.seed: unknown value '7'; known: 0, 1, 2."),
    ):
        with pytest.raises(UsageError) as raised:
            select(trials, known, [text])
        assert str(raised.value) == words
    with pytest.raises(UsageError, match="no trial of this sweep matches"):
        select(trials[:1], known, ["recovery=zero"])


@pytest.mark.parametrize(
    ("keys", "settings", "words"),
    [
        (
            {"axes": {"recovery": ["mask", "maks"]}},
            [],
            r"^trial recovery=maks: recovery: unknown recovery 'maks'.*'mask'",
        ),
        ({"set": {"rouns": 3}}, [], r"^all 4 trials: rouns: unknown key \(found 3\)\. .* 'rounds'\?"),
        ({}, ["rounds=many"], r"^all 4 trials: rounds: expected a valid integer, found 'many'"),
        (
            {"axes": {"recovery": {"a": {"recovery": "mask"}, "b": {"rouns": 3}}, "seed": [0, 1]}},
            [],
            r"^the 2 trials with recovery=b: rouns: unknown key",
        ),
        ({}, ["rounds"], r"--set expects key=value, found 'rounds'"),
        ({"base": "nowhere.yaml"}, [], r"^all 4 trials: base: expected a run config, .*nowhere\.yaml$"),
        (
            {"set": {"engine": {"name": "ray"}}},
            [],
            r"^set: expected no key of the engine, found engine\.name: a trial runs in one process; --workers",
        ),
        ({}, ["engine.workers=4"], r"^--set: expected no key of the engine, found engine\.workers: "),
        ({}, ["seed=4"], r"^--set: the seed is an axis of this sweep; --only seed=\.\.\. runs some of its values"),
        ({"set": {"seed": 4}}, [], r"^set: the seed is an axis of this sweep"),
        ({"axes": {"rate": {"a": {"seed": 1}}, "seed": [1]}}, [], r"^axes\.rate\.a: the seed is an axis of this sweep"),
        (
            {"axes": {"length": {"a": {"rounds": 2}, "b": {}}}},
            [],
            r"^axes: the trials length=a and length=b have the same config: no axis changes anything between them",
        ),
        (
            {"axes": {"workers": {"a": {"rounds": 1}, "b": {"engine": "ray"}}}},
            [],
            r"^axes\.workers\.b: expected no key of the engine, found engine: ",
        ),
        ({"only": [{"keep": {"seed": 0}}, {"keep": {"seed": 1}}]}, [], r"^only: no trial is left"),
    ],
)
def test_a_fault_is_one_line_before_anything_runs(tmp_path, keys, settings, words):
    with pytest.raises(ConfigError, match=words) as raised:
        trials_of(tmp_path, settings=settings, **keys)
    assert "\n" not in str(raised.value)


def test_the_hash_does_not_depend_on_engine_and_data_root(tmp_path):
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


def test_the_hash_of_a_stored_config(tmp_path):
    config = load_config(write_base(tmp_path))
    path = tmp_path / "config.yaml"
    raw = {**yaml.safe_load(config.to_yaml()), "engine": {"name": "ray"}}
    raw["data"]["root"] = "/a/folder/of/another/machine"
    path.write_text(yaml.safe_dump(raw))
    assert read_stored_config(path).sha256 == config_sha256(config)
    del raw["updates"]  # as written before that key existed
    path.write_text(yaml.safe_dump(raw))
    assert read_stored_config(path).sha256 == config_sha256(config)
    for text in ("", "a: [", "- 1", "data: 3", yaml.safe_dump({**raw, "rounds": 0})):
        path.write_text(text)
        assert read_stored_config(path).sha256 is None
    assert read_stored_config(tmp_path / "nothing.yaml") == StoredConfig()


def test_trials_that_differ_in_the_root_of_the_data_alone_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    axes = {"data": {name: {"data.root": name} for name in ("a", "b")}}
    with pytest.raises(
        ConfigError, match=r"^axes: the trials data=a and data=b have configs that differ in data\.root"
    ):
        trials_of(tmp_path, axes=axes)
    named = {"data": {name: {"data.root": name, "name": name} for name in ("a", "b")}}
    assert [trial.config.data.root for trial in trials_of(tmp_path, axes=named)] == [str(tmp_path / n) for n in "ab"]


def test_the_engine_of_the_base_is_replaced_but_a_deployment_is_refused(tmp_path):
    path = write_sweep(tmp_path, {**TOY, "engine": {"name": "ray"}})
    assert {trial.config.engine.name for trial in build_trials(read_definition(path), tmp_path)} == {"inprocess"}
    path = write_sweep(tmp_path, {**TOY, "engine": "deployment"})
    with pytest.raises(ConfigError, match=r"engine\.name: expected a simulation, found 'deployment'"):
        build_trials(read_definition(path), tmp_path)


# --- their data -----------------------------------------------------------------------------------------------------


def with_axes(folder: Path, **axes):
    path = write_sweep(folder, axes={"recovery": ["mask", "zero"], **axes, "seed": [0, 1]})
    return build_trials(read_definition(path), folder)


def test_a_data_source_that_cannot_be_opened_is_reported_once_with_its_trials(tmp_path):
    (tmp_path / "raw").mkdir()
    levels = {"digits": {}, "har": {"data": {"name": "uci_har"}}, "meld": {"data": {"name": "meld", "root": "raw"}}}
    with pytest.raises(DataError) as raised:
        check_data(with_axes(tmp_path, data=levels))
    message = str(raised.value)
    words = "the 4 trials with data=har: data.root: expected a folder prepared for 'uci_har', found none"
    assert message.startswith(words)
    meld = f"; the 4 trials with data=meld: data.root: expected a folder prepared for 'meld', found {tmp_path}"
    assert meld in message
    assert "data=digits" not in message and message.count("expected a folder") == 2 and "\n" not in message
    assert message.endswith("No trial was started; --only axis=value runs those without a fault")


def test_a_missing_root_is_reported_for_the_trials_that_will_run_only(tmp_path):
    levels = {name: {"data": {"name": "folder", "root": name}, "name": name} for name in ("there", "far")}
    trials = with_axes(tmp_path, data={"here": {}, **levels})
    with pytest.raises(DataError) as raised:
        check_data(trials)
    words = [
        f"the 4 trials with data={name}: data.root: expected an existing folder or file, found no {tmp_path / name} ("
        for name in levels
    ]
    assert all(word in str(raised.value) for word in words)
    check_data([trial for trial in trials if trial.labels["data"] == "here"])


def test_each_data_source_is_opened_once_and_none_is_kept(tmp_path):
    dataset.forget_datasets()
    opened = []
    loader = dataset.DATASETS.get("polydigits")
    load = loader.load

    def counted(self, params, root, seed):
        opened.append(params.modalities)
        return load(self, params, root, seed)

    trials = with_axes(tmp_path, data={"two": {}, "three": {"data.modalities": 3}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "load", counted)
        check_data(trials)
    assert sorted(opened) == [2, 3]
    assert dataset._load.cache_info().currsize == 0


FAULTS = {
    "evaluate.select": ("macro_auroc", "evaluate.select: expected a metric of multiclass data"),
    "missing.train.rate": ({"m7": 0.5}, "missing.train.rate: expected modalities of the data set (m0, m1), found 'm7'"),
    "sites.count": (100_000, "sites.count: expected at most "),
}
"""A key of a run's config -> a value that is wrong for these data, and the message."""


@pytest.mark.parametrize("key", FAULTS)
def test_a_config_that_does_not_fit_its_data_is_reported_with_its_trials(tmp_path, key):
    value, words = FAULTS[key]
    trials = with_axes(tmp_path, kind={"good": {}, "odd": {key: value}})
    with pytest.raises(DataError) as raised:
        check_data(trials)
    assert str(raised.value).startswith(f"the 4 trials with kind=odd: {words}")
    assert str(raised.value).count(words) == 1 and "kind=good" not in str(raised.value)
    check_data(trials, {trial.family for trial in trials if trial.labels["kind"] == "odd"})


def test_faults_of_some_seeds_are_left_to_their_trials(tmp_path):
    """Two sites that lose each modality with a chance of 0.9: under some seeds no training sample is left."""
    keys = {"missing.empty": "skip", "missing.train": {"level": "site", "rate": 0.9}}
    axes = {"lossy": {"lossy": keys}, "seed": list(range(6))}
    trials = build_trials(read_definition(write_sweep(tmp_path, axes=axes)), tmp_path)
    faults = [data_fault(trial, dataset.load_dataset(trial.config)) for trial in trials]
    assert any(faults) and not all(faults)
    assert all("expected a training sample with a modality, found none" in words for words in faults if words)
    check_data(trials)
    with pytest.raises(DataError, match="expected a training sample with a modality, found none"):
        check_data([trial for trial, words in zip(trials, faults, strict=True) if words])


def test_faults_name_trials_by_the_labels_that_only_they_have():
    every = [{"a": a, "b": b, "seed": seed} for a in "xy" for b in "pq" for seed in "01"]
    for kept, words in (
        (every, "all 8 trials"),
        (every[:1], "trial a=x, b=p, seed=0"),
        (every[:4], "the 4 trials with a=x"),
        (every[2:4], "the 2 trials with a=x, b=q"),
        ([every[0], every[7]], "2 trials (a=x, b=p, seed=0 and a=y, b=q, seed=1)"),
    ):
        faults = Faults()
        faults.add("it lacks", kept)
        assert faults.message(every) == f"{words}: it lacks"
