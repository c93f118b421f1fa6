"""The config: strict, complete, one line per fault that names the key, what was expected and what was found."""

from itertools import permutations

import pytest
import yaml

from fedrecon_core.config import ModelConfig, parse, parse_model
from fedrecon_core.config.loading import override, read_yaml
from fedrecon_core.errors import ConfigError
from fedrecon_core.metrics.base import Metric
from fedrecon_core.registry import METRICS
from tests.helpers.toy import toy_config, toy_settings

pytestmark = pytest.mark.quick


def fault(raw) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    text = str(caught.value)
    assert "\n" not in text
    return text


def with_key(path: str, value):
    """The toy's settings with one key replaced or added, whatever is there."""
    raw = toy_settings()
    here = raw
    *parents, last = path.split(".")
    for parent in parents:
        here = here.setdefault(parent, {})
    here[last] = value
    return raw


# --- round trip and defaults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        toy_settings(),
        toy_settings("mask", {"name": "fedopt", "momentum": 0.5}),
        toy_settings(
            {"name": "fedrecon", "mapping": {"loss": {"kl": 0.5, "forward": 1.0}}, "likelihood": {"std": 0.3}}
        ),
        toy_settings(
            missing={
                "train": {"level": "profile", "profile": [{"sites": 4, "modalities": ["picture", "steps"]}]},
                "test": {"level": "sample", "rate": {"picture": 0.5}, "draws": 3},
            },
            data={"name": "polydigits", "partition": {"name": "dirichlet", "alpha": 0.1}, "pairing": "instance"},
        ),
        toy_settings(
            evaluate={"where": "sites"},
            missing={
                "train": {"level": "sample", "sites": {"site-0001": {"steps": 0.5}}, "classes": {0: 0.9, "1": 0.1}},
                "validation": {"level": "site", "rate": 0.5, "independent": True},
                "test": {"level": "site", "sites": {"site-0002": 1}, "independent": True, "draws": 2},
            },
        ),
    ],
)
def test_yaml_out_and_in_again_gives_the_same_config(raw):
    config = parse(raw)
    again = parse(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.to_yaml() == config.to_yaml()


def test_json_as_it_travels_in_messages_gives_the_same_config():
    config = toy_config()
    assert parse(yaml.safe_load(config.model_dump_json())) == config


def test_the_sections_of_a_model_stand_alone():
    config = toy_config(strategy={"name": "fedopt"})
    dumped = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json", include=set(ModelConfig.model_fields))))
    model = parse_model(dumped)
    assert all(getattr(model, key) == getattr(config, key) for key in ModelConfig.model_fields)
    with pytest.raises(ConfigError, match=r"^strategy: unknown key"):
        parse_model({**dumped, "strategy": "fedavg"})


def test_a_short_config_writes_its_defaults_out():
    written = yaml.safe_load(parse({"data": "polydigits", "recovery": "fedrecon"}).to_yaml())
    assert written["strategy"] == {"name": "fedavg", "weighting": "uniform", "robust": None}
    assert written["data"]["partition"] == {"name": "iid"}
    assert written["recovery"]["ggfs"] == {"enabled": True, "refresh": "round"}
    assert written["missing"]["train"]["level"] == "none"
    assert set(written["modalities"]) >= {"image", "sequence", "vector"}
    assert written["sites"]["retries"] == 2
    assert written["engine"]["name"] == "inprocess"
    assert written["evaluate"]["every"] == 1


def test_a_name_alone_stands_for_a_method_with_its_defaults():
    assert parse(toy_settings(strategy="fedopt")).strategy == parse(toy_settings(strategy={"name": "fedopt"})).strategy


def test_a_config_cannot_be_changed_after_it_was_checked():
    with pytest.raises(Exception, match="frozen"):
        toy_config().seed = 3


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("round", "rounds"),
        ("sites.cuont", "count"),
        ("missing.train.rat", "rate"),
        ("missing.test.draw", "draws"),
        ("local.task.epoch", "epochs"),
        ("recovery.latnt", "latent"),
        ("recovery.ggfs.enable", "enabled"),
        ("recovery.mapping.hiden", "hidden"),
        ("task.fusion.head", "heads"),
        ("modalities.image.extractr", "extractor"),
        ("data.trian", "train"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(path, near):
    assert fault(with_key(path, 3)) == f"{path}: unknown key (found 3). Did you mean '{near}'?"


def test_keys_of_another_method_are_unknown():
    assert fault(toy_settings({"name": "mask", "latent": 8})).startswith("recovery.latent: unknown key (found 8).")
    assert "strategy.momentum: unknown key" in fault(toy_settings(strategy={"name": "fedavg", "momentum": 0.9}))


def test_an_unknown_key_near_to_none_lists_the_known_ones():
    text = fault(with_key("sites.colour", "red"))
    assert text.startswith("sites.colour: unknown key (found 'red'). Known keys: count, fraction, training, min,")


def test_a_misspelt_required_key_is_reported_as_what_was_written():
    raw = toy_settings(missing={"train": {"level": "profile", "profile": [{"sites": 4, "modalites": ["steps"]}]}})
    assert fault(raw).startswith("missing.train.profile.0.modalites: unknown key (found ['steps']).")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("rounds", "many", "expected a valid integer, found 'many'"),
        ("sites.count", 2.5, "expected a valid integer"),
        ("sites", 3, "expected a mapping of keys, found 3"),
        ("local.task.lr", "fast", "expected a valid number, found 'fast'"),
        ("local.task.optimizer", "adamw", "expected 'adam' or 'sgd', found 'adamw'"),
        ("local.task.lr", 0, "expected greater than 0, found 0"),
        ("recovery.latent", [4], "expected a valid integer, found [4]"),
        ("recovery.mapping.loss", "papr", "expected 'forward' or 'paper', found 'papr'"),
        ("recovery.mapping.loss", {"kl": 0.0}, "expected a term with a weight above 0"),
        ("modalities.image", None, "expected a mapping of keys, found None"),
        ("modalities.image.extractor", "wide", "expected a list, found 'wide'"),
        ("engine.name", "raay", "expected 'inprocess', 'ray' or 'deployment', found 'raay'"),
        ("data.partition", {"name": "dirichlet", "alpha": -1}, None),
        ("recovery", {"latent": 3}, "expected a recovery name or a mapping with the key 'name', found {'latent': 3}"),
        ("name", "two words", "expected a text that matches '"),
        ("modalities.image.only.picture.name", "vector", "expected no name (the data determine the kind"),
        ("modalities.image.only.picture.only", {}, "expected no only (these are one modality's keys already)"),
    ],
)
def test_a_wrong_value_names_the_key_what_was_expected_and_what_was_found(path, value, words):
    text = fault(with_key(path, value))
    if words is None:
        assert text == "data.partition.alpha: expected greater than 0, found -1"
    else:
        assert text.startswith(f"{path}: {words}")


WIDTHS = (
    *("image.generator", "image.hidden", "image.extractor", "vector.generator", "vector.extractor"),
    *("sequence.generator", "sequence.extractor", "sequence.extractor.convolutions"),
    *("sequence.only.steps.extractor", "sequence.only.steps.extractor.convolutions"),
)


@pytest.mark.parametrize("width", [0, -3])
@pytest.mark.parametrize("path", [*(f"modalities.{path}" for path in WIDTHS), "recovery.mapping.hidden"])
def test_networks_have_no_layer_without_width(path, width):
    raw = with_key("modalities.sequence", {}) | {"recovery": {"name": "fedrecon"}}
    raw = override(raw, [f"{path}=[8, {width}]"])
    assert fault(raw) == f"{path}.1: expected greater than or equal to 1, found {width}"


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("local.task.lr", {}),
        ("sites.wait", {}),
        ("updates.limit", {}),
        ("recovery.weight", {}),
        ("recovery.likelihood.std", {}),
        ("recovery.mapping.loss.kl", {}),
        ("strategy.mu", {"strategy": {"name": "fedprox"}}),
        ("strategy.priority.size", {"strategy": {"name": "mmfedmc", "priority": {}}}),
        ("data.partition.alpha", {"data": {"name": "toy", "partition": {"name": "dirichlet"}}}),
        ("modalities.vector.only.features.dropout", {}),
        ("missing.test.rate", {"missing": {"test": {"level": "sample"}}}),
        ("missing.test.rate.steps", {"missing": {"test": {"level": "sample"}}}),
    ],
)
def test_a_number_without_end_is_refused(path, method, number):
    raw = override(toy_settings() | method, [f"{path}={str(number).replace('inf', '.inf').replace('nan', '.nan')}"])
    assert fault(raw) == f"{path}: expected a finite number, found {number}"


@pytest.mark.parametrize("rate", [1.5, -0.1])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_rate_outside_0_to_1_is_refused(rate, split):
    text = fault(toy_settings(missing={split: {"level": "sample", "rate": rate}}))
    assert text == f"missing.{split}.rate: expected a number between 0 and 1, found {rate}"


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.5, "expected a number between 0 and 1, found 1.5"), ("lots", "expected a valid number, found 'lots'")],
)
def test_a_bad_rate_in_a_map_names_its_modality(value, words):
    raw = toy_settings(missing={"train": {"level": "sample", "rate": {"steps": 0.5, "picture": value}}})
    assert fault(raw).startswith(f"missing.train.rate.picture: {words}")


@pytest.mark.parametrize("key", ["sites", "classes"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_bad_rate_of_a_site_or_class_names_it(key, split):
    raw = toy_settings(missing={split: {"level": "sample", key: {"one": 0.5, "two": {"steps": 1.5}}}})
    assert fault(raw) == f"missing.{split}.{key}.two.steps: expected a number between 0 and 1, found 1.5"
    raw = toy_settings(missing={split: {"level": "sample", key: {"one": -0.5}}})
    assert fault(raw) == f"missing.{split}.{key}.one: expected a number between 0 and 1, found -0.5"
    raw = toy_settings(missing={split: {"level": "sample", key: 0.5}})
    assert fault(raw) == f"missing.{split}.{key}: expected a mapping of keys, found 0.5"


def test_classes_that_are_numbers_need_no_quotes_and_other_names_must_be_texts():
    config = toy_config(missing={"train": {"level": "sample", "classes": {3: 0.5}}})
    assert config.missing.train.classes == {"3": 0.5}
    raw = toy_settings(missing={"train": {"level": "sample", "classes": {True: 0.5}}})
    assert fault(raw) == "missing.train.classes: expected names, found True; put the name in quotes"


@pytest.mark.parametrize("level", [{}, {"level": "none"}, {"level": "coupled"}])
@pytest.mark.parametrize("rate", [0.5, {"picture": 0.5}])
def test_a_rate_that_its_level_would_ignore_is_refused(level, rate):
    text = fault(toy_settings(missing={"train": {"rate": rate, **level}}))
    assert text.startswith(f"missing.train.level: expected site or sample, since a rate is given ({rate}), found '")


def test_a_rate_of_zero_needs_no_level():
    assert toy_config(missing={"train": {"rate": 0.0}, "test": {"rate": {"picture": 0}}}).missing.train.level == "none"


@pytest.mark.parametrize("registry", ["recovery", "strategy", "data", "data.partition", "task.fusion"])
def test_an_unknown_method_names_its_key_and_the_known_ones(registry):
    text = fault(with_key(registry, {"name": "wizard"}))
    assert text.startswith(f"{registry}: unknown ")
    assert "'wizard'; known: " in text


def test_an_unknown_modality_kind_names_the_nearest():
    text = fault(with_key("modalities.imag", {}))
    assert text.startswith("modalities.imag: unknown modality kind 'imag'; known: ")
    assert text.endswith("Did you mean 'image'?")


@pytest.mark.parametrize("key", ["data", "recovery"])
def test_a_required_key_that_is_missing_is_named(key):
    raw = toy_settings()
    del raw[key]
    assert fault(raw) == f"{key}: this key is required and was not found"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {
                "sites": {"count": 2},
                "missing": {"train": {"level": "profile", "profile": [{"sites": 10, "modalities": ["picture"]}]}},
            },
            "missing.train.profile: expected profiles of 2 sites together (sites.count), found 10",
        ),
        (
            {"sites": {"count": 1}, "missing": {"train": {"level": "coupled"}}},
            "missing.train.complete_sites: expected fewer than sites.count (1), found 1",
        ),
        ({"sites": {"count": 2, "min": 10}}, "sites.min: expected at most sites.count (2), found 10"),
        ({"missing": {"train": {"level": "profile"}}}, "missing.train.profile: expected a list of"),
        (
            {"missing": {"train": {"level": "site", "profile": [{"sites": 4, "modalities": ["steps"]}]}}},
            "missing.train.level: expected profile, since a profile is given, found 'site'",
        ),
        (
            {"missing": {"test": {"level": "site", "rate": 0.5}}},
            "missing.test.level: expected sample, coupled or none where the server evaluates, found 'site'",
        ),
        (
            {"missing": {"train": {"sites": {"site-0001": 0.0}}}},
            "missing.train.level: expected site or sample, since rates of sites are given, found 'none'",
        ),
        (
            {"missing": {"train": {"level": "site", "rate": 0.5, "classes": {"0": 0.5}}}},
            "missing.train.level: expected sample, since rates of classes are given, found 'site'",
        ),
        (
            {"missing": {"test": {"level": "sample", "sites": {"site-0001": 0.5, "site-0002": 0.5}}}},
            "missing.test.sites: expected no rates of sites where the server evaluates, found those of 2; leave",
        ),
        (
            {"missing": {"test": {"level": "sample", "rate": 0.5, "independent": True}}},
            "missing.test.independent: expected its default, False, with level sample (it applies to site and profile",
        ),
        (
            {"missing": {"train": {"level": "site", "rate": 0.5, "independent": True}}},
            "missing.train.independent: unknown key (found True).",
        ),
        (
            {
                "evaluate": {"where": "sites"},
                "missing": {"test": {"level": "profile", "profile": [{"sites": 3, "modalities": ["steps"]}]}},
            },
            "missing.test.profile: expected profiles of 4 sites together (sites.count), found 3",
        ),
        (
            {"local": {"task": {"momentum": 0.9}}},
            "local.task.momentum: expected its default, 0.0, with optimizer adam (it applies to sgd only), found 0.9; "
            "leave it out, or set it to 0.0",
        ),
        (
            {"missing": {"train": {"level": "site", "rate": 0.5, "pairs": 0.3}}},
            "missing.train.pairs: expected its default, 0.1, with level site (it applies to coupled only), found 0.3",
        ),
        (
            {"missing": {"train": {"complete_sites": 2}}},
            "missing.train.complete_sites: expected its default, 1, with level none (it applies to coupled only), "
            "found",
        ),
        (
            {"evaluate": {"fraction": 0.5}},
            "evaluate.fraction: expected its default, 1.0, with where: server (it is the share of the sites",
        ),
        (
            {"strategy": {"name": "fedopt", "client_lr": 0.1}},
            "strategy.client_lr: expected none without lr (it would cancel out), found 0.1",
        ),
        (
            {"evaluate": {"select": "urs"}},
            "evaluate.select: unknown metric 'urs'; known: accuracy, macro_auroc, macro_f1, uar. Did you mean 'uar'?",
        ),
    ],
)
def test_impossible_combinations_name_the_key(sections, words):
    assert fault(toy_settings(**sections)).startswith(words)


def test_keys_that_act_only_somewhere_may_be_set_there():
    sgd = {"optimizer": "sgd", "momentum": 0.9}
    assert toy_config(local={"task": sgd}).local.task.momentum == 0.9
    coupled = {"level": "coupled", "pairs": 0.3, "complete_sites": 2}
    assert toy_config(missing={"train": coupled}).missing.train.pairs == 0.3
    assert toy_config(evaluate={"where": "sites", "fraction": 0.5}).evaluate.fraction == 0.5


def test_a_metric_that_was_added_may_select_the_best_round():
    METRICS.register("worst")(type("Worst", (Metric,), {}))
    try:
        assert toy_config(evaluate={"select": "worst"}).evaluate.select == "worst"
    finally:
        METRICS.forget("worst")


def test_long_values_are_cut_and_line_breaks_taken_out():
    text = fault(with_key("sites.count", "a\nb" * 200))
    assert len(text) < 200
    assert text.startswith(r"sites.count: expected a valid integer, found 'a\nba\nb")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(toy_config().to_yaml())
    assert parse(read_yaml(path)) == toy_config()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"a: [1, 2", "is not valid YAML"),
        (b"- 1\n- 2\n", "must contain a mapping of keys, found list"),
        (b"", "must contain a mapping of keys, found nothing"),
        (b"just words", "must contain a mapping of keys, found str"),
        (b"name: \xff\xfe\n", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_one_line_with_its_path(tmp_path, content, words):
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    text = str(caught.value)
    assert text.startswith(f"config file {path} {words}")
    assert "\n" not in text


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)


# --- --set ------------------------------------------------------------------------------------------------------------


def test_set_replaces_adds_and_leaves_the_original_alone():
    raw = {"rounds": 2, "local": {"task": {"lr": 0.1, "batch": 8}}}
    changed = override(raw, ["rounds=5", "local.task.lr=1e-3", "missing.train.rate=0.5", "seed=3"])
    assert changed["rounds"] == 5
    assert changed["local"]["task"]["batch"] == 8
    assert changed["missing"] == {"train": {"rate": 0.5}}
    assert raw == {"rounds": 2, "local": {"task": {"lr": 0.1, "batch": 8}}}


def test_set_reads_values_as_yaml():
    changed = override({}, ["a=[1, x]", "b={m0: 0.5}", "c=true", "d=", "e=a=b"])
    assert changed == {"a": [1, "x"], "b": {"m0": 0.5}, "c": True, "d": None, "e": "a=b"}


def test_a_number_in_scientific_notation_is_a_number():
    assert parse(override(toy_settings(), ["local.task.lr=1e-4"])).local.task.lr == 1e-4


@pytest.mark.parametrize("setting", ["recovery=mask", "recovery.name=mask"])
def test_switching_the_method_drops_the_keys_of_the_one_before(setting):
    config = parse(override(toy_settings(), [setting]))
    assert config.recovery.name == "mask"


def test_keys_of_the_new_method_may_follow_its_name():
    raw = toy_settings(strategy={"name": "fedopt", "momentum": 0.5})
    config = parse(override(raw, ["strategy.name=fedavg", "strategy.weighting=samples"]))
    assert config.strategy.model_dump() == {"name": "fedavg", "weighting": "samples", "robust": None}


@pytest.mark.parametrize("name", ["recovery=fedrecon", "recovery.name=fedrecon"])
def test_a_method_and_its_keys_may_be_set_in_any_order(name):
    raw, settings = toy_settings("mask"), [name, "recovery.weight=0.3", "recovery.ggfs.enabled=false"]
    for order in permutations(settings):
        recovery = parse(override(raw, order)).recovery
        assert (recovery.name, recovery.weight, recovery.ggfs.enabled) == ("fedrecon", 0.3, False)


def test_the_later_of_two_values_of_one_key_counts():
    assert override({}, ["seed=1", "rounds=2", "seed=3"]) == {"seed": 3, "rounds": 2}


def test_another_data_set_keeps_partition_and_root():
    data = {"name": "polydigits", "pairing": "class", "root": "somewhere"}
    raw = toy_settings(data={**data, "partition": {"name": "dirichlet", "alpha": 0.1}})
    for order in permutations(["data.name=toy", "data.partition.alpha=5", "data.train=24"]):
        found = parse(override(raw, order)).data.model_dump()
        assert found.pop("partition") == {"name": "dirichlet", "alpha": 5.0}
        assert found == {"name": "toy", "root": "somewhere", "train": 24, "held_out": 24, "scale": "none"}


def test_naming_the_same_method_again_keeps_its_keys():
    assert parse(override(toy_settings(), ["recovery.name=fedrecon"])) == toy_config()


def test_a_method_given_by_its_bare_name_takes_keys():
    config = parse(override(toy_settings(strategy="fedavg"), ["strategy.weighting=samples"]))
    assert config.strategy.weighting == "samples"


def test_another_engine_keeps_the_workers():
    config = parse(override(toy_settings(engine={"name": "inprocess", "workers": 3}), ["engine.name=ray"]))
    assert (config.engine.name, config.engine.workers) == ("ray", 3)


@pytest.mark.parametrize("setting", ["rounds", "=3", ""])
def test_a_setting_without_key_or_value_is_refused(setting):
    with pytest.raises(ConfigError, match="--set expects key=value"):
        override({}, [setting])


def test_a_setting_that_is_no_yaml_names_its_key():
    with pytest.raises(ConfigError, match=r"--set rounds: the value must be YAML, found '\[1'"):
        override({}, ["rounds=[1"])


@pytest.mark.parametrize(
    ("level", "kept"),
    [
        ("none", set()),
        ("coupled", set()),
        ("sample", {"rate", "sites"}),
        ("site", {"rate", "sites", "independent"}),
        ("profile", {"independent"}),
    ],
)
def test_another_level_drops_rates_and_independence_where_they_would_not_act(level, kept):
    given = {"rate": 0.5, "sites": {"site-0001": 0.1}}
    for before in ({"level": "site", **given, "independent": True}, {"level": "sample", **given, "classes": {"0": 1}}):
        raw = {"missing": {"test": before}}
        found = override(raw, [f"missing.test.level={level}"])["missing"]["test"]
        always = set(before) - {"level"} if before["level"] == level else set(before) & kept
        assert set(found) == {"level", *always}


def test_a_rate_of_one_site_or_class_may_be_set():
    raw = toy_settings(missing={"train": {"level": "sample", "rate": 0.5}})
    train = parse(
        override(raw, ["missing.train.sites.site-0002=0.1", "missing.train.classes.1={steps: 1}"])
    ).missing.train
    assert (train.sites, train.classes) == ({"site-0002": 0.1}, {"1": {"steps": 1.0}})


@pytest.mark.parametrize(
    ("level", "kept"),
    [("none", set()), ("coupled", set()), ("sample", {"rate"}), ("site", {"rate"})],
)
def test_a_level_set_on_the_command_line_drops_what_belonged_to_the_one_before(level, kept):
    raw = {"missing": {"train": {"level": "site", "rate": 0.5}, "test": {"level": "sample", "rate": 0.5, "draws": 5}}}
    found = override(raw, [f"missing.train.level={level}", f"missing.test.level={level}"])["missing"]
    assert set(found["train"]) == {"level", *kept}
    assert set(found["test"]) == {"level", "draws", *kept}
    both = override(raw, ["missing.train.rate=0.3", "missing.train.level=sample"])["missing"]["train"]
    assert both == {"level": "sample", "rate": 0.3}


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("rounds: 3\nname: a\nrounds: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="rounds: this key is repeated in line 3; give it once"):
        read_yaml(path)
