"""What the comments of the configs tell to type is taken as it stands there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from server.runs.setup import load_config
from server.sweep.spec import Definition, read_definition
from server.sweep.trials import build_trials

discover((*CORE_PACKAGES, "strategies"))

pytestmark = pytest.mark.quick
PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))
SWEEPS = [path for path in CONFIGS if path.parent.name in ("paper", "sweeps")]


def told(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """The config and the settings of each group of ``--set`` that stands together in the comments of ``path``; those of
    a preparation are left out."""
    comments = re.findall(r"^\s*#(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    words = " ".join(comments).split()
    config, settings, preparing = path, [], False
    for number, word in enumerate(words):
        preparing = word == "prepare" or (preparing and word not in ("run", "sweep"))
        if word.startswith("configs/"):
            config = PROJECT / word
        if number and words[number - 1].strip("`(") == "--set":
            value = word.rstrip("`;,.:)")
            settings += [] if preparing else [value]
            following = words[number + 1] if number + 1 < len(words) else ""
            if settings and (value != word or following != "--set"):
                yield config, settings
                settings = []


def at_one_rate(path: Path) -> Definition:
    """The sweep at its first missing rate: a setting that one rate takes all take."""
    found = read_definition(path)
    axes = [
        parameter.model_copy(update={"values": parameter.values[: 1 if parameter.name == "rate" else None]})
        for parameter in found.axes
    ]
    return found.model_copy(update={"axes": tuple(axes)})


COMMENTS = [(path, *one) for path in CONFIGS for one in told(path)]


@pytest.mark.parametrize(
    ("path", "config", "settings"),
    [pytest.param(*one, id=f"{one[0].relative_to(PROJECT / 'configs')}: {' '.join(one[2])}") for one in COMMENTS],
)
def test_settings_in_a_comment_are_taken(path, config, settings, tmp_path):
    taken = [f"data.root={tmp_path}" if one.startswith("data.root=") else one for one in settings]
    if config in SWEEPS:
        assert build_trials(at_one_rate(config), config.parent, taken)
    else:
        load_config(config, taken)


def test_settings_that_stand_together_are_found_together_over_lines():
    found = [settings for path, _, settings in COMMENTS if path.match("fedmultimodal/meld.yaml")]
    assert [len(settings) for settings in found] == [1, 1, 4, 2]
    assert found[2][-1] == "strategy.weighting=samples"
    assert not any("missing_audio" in one for *_, settings in COMMENTS for one in settings)


@pytest.mark.parametrize(("section", "registry"), [("recovery", RECOVERIES), ("strategy", STRATEGIES)])
def test_the_first_config_names_every_choice(section, registry):
    text = (PROJECT / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    chosen, others = re.search(rf"^{section}:\n  name: (\w+) .*; others: ([a-z, ]+)", text, re.MULTILINE).groups()
    ours = [
        name for name in registry.names() if registry.get(name).__module__.startswith(("fedrecon_core", "strategies"))
    ]
    assert sorted([chosen, *re.split(r",\s*", others.strip())]) == ours


@pytest.mark.parametrize("name", ["crisismmd", "meld"])
def test_fedopt_rows_of_the_benchmark_weigh_by_samples_as_its_fedavg_rows_do(name):
    path = PROJECT / "configs" / "fedmultimodal" / f"{name}.yaml"
    [settings] = [settings for at, _, settings in COMMENTS if at == path and "strategy.name=fedopt" in settings]
    strategies = [load_config(path), load_config(path, settings)]
    assert [one.strategy.name for one in strategies] == ["fedavg", "fedopt"]
    assert [getattr(one.strategy, "weighting", None) for one in strategies] == ["samples", "samples"]
