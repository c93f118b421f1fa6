"""Examples for users: the example of docs/data.md, and the settings in comments of the configs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedrecon_core.data.site_folder.check import check_folder
from fedrecon_core.registry import CORE_PACKAGES, RECOVERIES, STRATEGIES, discover
from server.runs.setup import load_config
from server.sweep.spec import Definition, read_definition
from server.sweep.trials import build_trials
from tests.helpers.runs import caller

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
YAML_FILES = ("mapping.yaml", "heart.yaml")
"""File names of the YAML blocks, in order."""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(GUIDE.parents[1] / "configs")
    return caller(monkeypatch, capsys)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_command_of_the_guide_succeeds(command, tmp_path):
    for name, text in zip(YAML_FILES, blocks("yaml"), strict=True):
        assert yaml.safe_load(text)["name"] == "heart"
        Path(name).write_text(text, encoding="utf-8")
    [example] = blocks("python")
    exec(compile(example, "example", "exec"), {})
    ran = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(ran) >= 10
    for line in ran:
        program, *arguments = shlex.split(line)
        code, _, err = command(*arguments)
        assert (program, code) == ("fedrecon", 0), (line, err)
    assert Path("heart.png").is_file()
    assert Path("sites/federation.yaml").is_file()
    assert all(check_folder(folder) == [] for folder in (tmp_path / "heart").iterdir())


def test_table_without_images_is_imported_alone(command, tmp_path):
    [example] = blocks("python")
    exec(compile(example, "example", "exec"), {})
    mapping = yaml.safe_load(blocks("yaml")[0])
    header, *lines = Path("visits.csv").read_text().splitlines()
    Path("west.csv").write_text("\n".join([header, *(line for line in lines if ",West," in line)]))
    del mapping["site"]
    Path("alone.yaml").write_text(yaml.safe_dump(mapping))
    code, out, err = command("data", "import", "west.csv", "--map", "alone.yaml", "--out", "west")
    assert (code, err) == (0, "")
    assert "no sample has xray" in out
    assert check_folder(tmp_path / "west") == []


def write_visits() -> None:
    """Write two visits each of patients of three hospitals, with two classes that may occur together."""
    lines = ["patient,hospital,age,sugar,ill,old"]
    for number in range(180):
        patient, ill = number // 2, int(number % 3 == 0)
        lines.append(f"p{patient},{'ABC'[patient % 3]}x,{40 + number % 50},{5 + ill},{ill},{patient % 2}")
    Path("visits.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(("site", "label"), [(None, "ill"), ("hospital", {"columns": ["ill", "old"]})])
def test_run_command_printed_by_import_succeeds(command, site, label):
    write_visits()
    mapping = {
        "name": "visits",
        "label": label,
        "group": "patient",
        "shares": {},
        "modalities": {"age": {"columns": ["age"]}, "sugar": {"columns": ["sugar"]}},
        **({"site": site} if site else {}),
    }
    Path("map.yaml").write_text(yaml.safe_dump(mapping))
    code, out, err = command("data", "import", "visits.csv", "--map", "map.yaml", "--out", "a folder")
    assert (code, err) == (0, "")
    [line] = [line for line in out.splitlines() if line.startswith("run on it")]
    program, *arguments = shlex.split(line.partition("): ")[2])
    assert program == "fedrecon"
    shorter = ("rounds=1", "local.generator.epochs=1", "local.mapping.epochs=1")
    code, _, err = command(*arguments, *(part for setting in shorter for part in ("--set", setting)))
    assert code == 0, (line, err)


# --- settings in comments of the configs ------------------------------------------------------------------------------

discover((*CORE_PACKAGES, "strategies"))

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((PROJECT / "configs").rglob("*.yaml"))
SWEEPS = [path for path in CONFIGS if path.parent.name in ("paper", "sweeps")]


def commented_settings(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """The config and the settings of each command in the comments of ``path``, except those of ``data prepare``."""
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
    """The sweep at its first missing rate; a setting that is valid for one rate is valid for all."""
    found = read_definition(path)
    axes = [
        parameter.model_copy(update={"values": parameter.values[: 1 if parameter.name == "rate" else None]})
        for parameter in found.axes
    ]
    return found.model_copy(update={"axes": tuple(axes)})


COMMENTS = [(path, *one) for path in CONFIGS for one in commented_settings(path)]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("path", "config", "settings"),
    [pytest.param(*one, id=f"{one[0].relative_to(PROJECT / 'configs')}: {' '.join(one[2])}") for one in COMMENTS],
)
def test_settings_in_a_comment_are_valid(path, config, settings, tmp_path):
    taken = [f"data.root={tmp_path}" if one.startswith("data.root=") else one for one in settings]
    if config in SWEEPS:
        assert build_trials(at_one_rate(config), config.parent, taken)
    else:
        load_config(config, taken)


@pytest.mark.quick
def test_settings_of_one_command_are_grouped_across_lines():
    found = [settings for path, _, settings in COMMENTS if path.match("fedmultimodal/meld.yaml")]
    assert [len(settings) for settings in found] == [1, 1, 4, 2]
    assert found[2][-1] == "strategy.weighting=samples"
    assert not any("missing_audio" in one for *_, settings in COMMENTS for one in settings)


@pytest.mark.quick
@pytest.mark.parametrize(("section", "registry"), [("recovery", RECOVERIES), ("strategy", STRATEGIES)])
def test_quickstart_config_names_every_choice(section, registry):
    text = (PROJECT / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    chosen, others = re.search(rf"^{section}:\n  name: (\w+) .*; others: ([a-z, ]+)", text, re.MULTILINE).groups()
    ours = [
        name for name in registry.names() if registry.get(name).__module__.startswith(("fedrecon_core", "strategies"))
    ]
    assert sorted([chosen, *re.split(r",\s*", others.strip())]) == ours


@pytest.mark.quick
@pytest.mark.parametrize("name", ["crisismmd", "meld"])
def test_fedopt_rows_are_weighted_by_samples_like_fedavg_rows(name):
    path = PROJECT / "configs" / "fedmultimodal" / f"{name}.yaml"
    [settings] = [settings for at, _, settings in COMMENTS if at == path and "strategy.name=fedopt" in settings]
    strategies = [load_config(path), load_config(path, settings)]
    assert [one.strategy.name for one in strategies] == ["fedavg", "fedopt"]
    assert [getattr(one.strategy, "weighting", None) for one in strategies] == ["samples", "samples"]
