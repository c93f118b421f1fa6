"""docs/data.md: its example is run as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from fedrecon_core.data.site_folder.check import check_folder
from tests.helpers.runs import caller

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
YAML_FILES = ("mapping.yaml", "heart.yaml")
"""What the text calls its YAML blocks, in order."""


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(GUIDE.parents[1] / "configs")
    return caller(monkeypatch, capsys)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_command_of_the_guide_does_what_it_says(command, tmp_path):
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


def test_the_hospital_without_x_rays_imports_its_table_alone(command, tmp_path):
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
    """Patients of three hospitals with two visits each, and two classes that may come together."""
    lines = ["patient,hospital,age,sugar,ill,old"]
    for number in range(180):
        patient, ill = number // 2, int(number % 3 == 0)
        lines.append(f"p{patient},{'ABC'[patient % 3]}x,{40 + number % 50},{5 + ill},{ill},{patient % 2}")
    Path("visits.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(("site", "label"), [(None, "ill"), ("hospital", {"columns": ["ill", "old"]})])
def test_the_run_that_an_import_prints_runs_as_it_stands(command, site, label):
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
