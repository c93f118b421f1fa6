"""Ways in which a site folder goes bad, drawn at random: what disks, copies, editors and hands do to it.

A corruption takes a copy of a sound folder and a stream of random numbers, and changes the copy.
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fedrecon_core.data.site_folder.samples import Samples
from fedrecon_core.data.site_folder.write import FolderContent, write_folder
from fedrecon_core.types import DatasetSpec, ModalitySpec
from tests.helpers.folders import content
from tests.helpers.toy import tiny_dataset

Corruption = Callable[[Path, random.Random], object]
CORRUPTIONS: dict[str, Corruption] = {}
ODD = (None, True, -1, 0, 1, 2, 3, 10**30, 0.5, float("nan"), "", "x", "low", "image", "../..", [], [1], {}, {"a": 1})


def corruption(function: Corruption) -> Corruption:
    CORRUPTIONS[function.__name__] = function
    return function


def write_multiclass(folder: Path) -> Path:
    """Three modalities, one of them with sequences of different lengths, with gaps."""
    dataset = tiny_dataset(12, 8)
    gaps = np.random.default_rng(0).random((len(dataset.labels), len(dataset.spec.names))) < 0.7
    write_folder(folder, content(dataset, gaps))
    return folder


def write_multilabel(folder: Path) -> Path:
    """Two modalities, several labels, natural ids; each test sample stands twice, under two masks."""
    draw = np.random.default_rng(1)
    spec = DatasetSpec(
        name="several",
        target="multilabel",
        classes=("a", "b", "c"),
        modalities=(
            ModalitySpec(name="vector", kind="vector", shape=(4,)),
            ModalitySpec(name="steps", kind="sequence", shape=(5, 2)),
        ),
    )
    ids = np.array([0, 1, 2, 3, 4, 5, 6, 7, 6, 7])
    vectors = draw.standard_normal((8, 4)).astype(np.float32)
    lengths = draw.integers(1, 6, size=8)
    steps = [draw.standard_normal((length, 2)).astype(np.float32) for length in lengths]
    present = np.ones((10, 2), dtype=bool)
    present[1, 0] = present[6, 1] = present[9, 0] = False
    samples = Samples(
        ids=ids,
        labels=draw.integers(0, 2, size=(8, 3))[ids],
        split=np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2]),
        cluster_ids=ids // 2,
        present=present,
        natural_ids=ids % 3,
    )
    pieces = [steps[row] for row in ids[present[:, 1]]]
    arrays = {"vector": vectors[ids[present[:, 0]]], "steps": np.concatenate(pieces)}
    offsets = {"steps": np.cumsum([0, *map(len, pieces)])}
    write_folder(folder, FolderContent(spec, samples, arrays, offsets))
    return folder


def data_files(folder: Path) -> list[Path]:
    return [folder / "samples.parquet", *sorted((folder / "arrays").iterdir())]


def any_file(folder: Path, draw: random.Random) -> Path:
    return draw.choice([*data_files(folder), folder / "dataset.yaml", *sorted((folder / ".checked").iterdir())])


def numbers(draw: random.Random, count: int) -> bytes:
    return draw.choice([draw.randbytes(count), b"\0" * count, b"\xff" * count])


# --- bytes ----------------------------------------------------------------------------------------------------------


@corruption
def flipped_bits(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    raw = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    path.write_bytes(raw)


@corruption
def overwritten_block(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    raw = bytearray(path.read_bytes())
    start, size = draw.randrange(len(raw)), draw.choice([1, 4, 64, 512])
    raw[start : start + size] = numbers(draw, len(raw[start : start + size]))
    path.write_bytes(raw)


@corruption
def swapped_blocks(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    raw = path.read_bytes()
    size = draw.choice([4, 16, 60, 128])
    first, second = sorted(draw.randrange(max(1, len(raw) - size)) for _ in range(2))
    second = max(second, first + size)
    parts = raw[:first], raw[first : first + size], raw[first + size : second], raw[second : second + size]
    path.write_bytes(parts[0] + parts[3] + parts[2] + parts[1] + raw[second + size :])


@corruption
def cut(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    os.truncate(path, draw.choice([0, draw.randrange(path.stat().st_size), path.stat().st_size - 1]))


@corruption
def extended(folder: Path, draw: random.Random) -> None:
    with any_file(folder, draw).open("ab") as file:
        file.write(numbers(draw, draw.choice([1, 4, 100, 5000])))


@corruption
def cut_out(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    raw = path.read_bytes()
    start = draw.randrange(len(raw))
    path.write_bytes(raw[:start] + raw[start + draw.choice([1, 8, 200]) :])


# --- files ----------------------------------------------------------------------------------------------------------


@corruption
def swapped_files(folder: Path, draw: random.Random) -> None:
    first, second = draw.sample([*data_files(folder), folder / "dataset.yaml"], 2)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


@corruption
def renamed(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    path.rename(path.with_name(draw.choice([path.name + ".bak", path.name.upper(), "x.npy", "\udcff.npy", "a\nb.npy"])))


@corruption
def missing(folder: Path, draw: random.Random) -> None:
    for path in draw.sample(data_files(folder), draw.choice([1, 1, 2])):
        path.unlink()


@corruption
def extra(folder: Path, draw: random.Random) -> None:
    place = draw.choice(["arrays", "arrays", ".", ".checked"])
    path = (
        folder / place / draw.choice(["more.npy", ".DS_Store", "picture.npy~", "\udcfe", "vector.offsets.npy", "sub"])
    )
    if path.name == "sub":
        path.mkdir()
    else:
        path.write_bytes(draw.choice([b"", data_files(folder)[1].read_bytes(), draw.randbytes(100)]))


@corruption
def linked(folder: Path, draw: random.Random) -> None:
    path = draw.choice([any_file(folder, draw), folder / "arrays"])
    inside, outside = folder / "copy", folder.parent / "outside"
    target = draw.choice([inside, outside, path, Path("/dev/zero"), Path("/nowhere"), Path("/")])
    path.rename(draw.choice([inside, outside]))
    path.symlink_to(target)


@corruption
def odd_kind(folder: Path, draw: random.Random) -> None:
    path = any_file(folder, draw)
    path.unlink()
    draw.choice([os.mkfifo, Path.mkdir])(path)


# --- dataset.yaml ---------------------------------------------------------------------------------------------------


def described(folder: Path) -> Any:
    return yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))


def describe(folder: Path, raw: Any) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value below ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, one in inner for place in ((*path, key), *places(one, (*path, key)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@corruption
def yaml_values(folder: Path, draw: random.Random) -> None:
    raw = described(folder)
    *path, key = draw.choice(places(raw))
    found = at(raw, tuple(path))[key]
    near: tuple[Any, ...] = (found + 1, -found, found / 2, str(found)) if isinstance(found, int | float) else ()
    near += (found[::-1], found.upper(), found + "x", found[:-1]) if isinstance(found, str) else ()
    at(raw, tuple(path))[key] = draw.choice([*near, *ODD])
    describe(folder, raw)


@corruption
def yaml_keys(folder: Path, draw: random.Random) -> None:
    raw = described(folder)
    *path, key = draw.choice([place for place in places(raw) if isinstance(place[-1], str)])
    owner = at(raw, tuple(path))
    value = owner.pop(key) if draw.random() < 0.7 else owner[key]
    if draw.random() < 0.6:
        owner[draw.choice([key + "s", key[:-1], "../../x", "/etc/passwd", "arrays/none.npy", 7, "name", "\x1b[2J"])] = (
            value
        )
    describe(folder, raw)


@corruption
def yaml_lists(folder: Path, draw: random.Random) -> None:
    raw = described(folder)
    found = draw.choice([at(raw, place) for place in places(raw) if isinstance(at(raw, place), list)])
    number = draw.randrange(len(found))
    draw.choice([lambda: found.pop(number), lambda: found.append(found[number]), found.reverse, found.clear])()
    describe(folder, raw)


@corruption
def yaml_lines(folder: Path, draw: random.Random) -> None:
    path = folder / "dataset.yaml"
    found = path.read_text(encoding="utf-8").splitlines()
    number = draw.randrange(len(found))
    change = draw.choice(["gone", "twice", "swapped", "shifted", "tab", "garbage"])
    line = found.pop(number)
    kept = {
        "gone": [],
        "twice": [line, line],
        "swapped": [],
        "shifted": [" " + line],
        "tab": ["\t" + line],
        "garbage": [
            draw.choice(["&a *a", "<<: {}", "? [", "!!python/name:os.system", "%", line + ": x", "---", "\x00"])
        ],
    }[change]
    found[number:number] = kept
    if change == "swapped":
        found.insert(draw.randrange(len(found)), line)
    path.write_text("\n".join(found) + "\n", encoding="utf-8")


@corruption
def yaml_spaces(folder: Path, draw: random.Random) -> None:
    """Change the text but not its meaning."""
    path = folder / "dataset.yaml"
    found = path.read_text(encoding="utf-8").splitlines()
    for _ in range(draw.choice([1, 3])):
        number = draw.randrange(len(found) + 1)
        found.insert(number, draw.choice(["", "# a comment", "   # another: one", "#\u00e9"]))
    path.write_text("\n".join(found) + "\n", encoding="utf-8")


@corruption
def yaml_sealed(folder: Path, draw: random.Random) -> None:
    """An edit of the specification with a digest that fits, as a foreign tool may write it."""
    raw = described(folder)
    modality = draw.choice(raw["modalities"])
    changes: list[Callable[[], object]] = [
        raw["classes"].pop,
        lambda: raw["classes"].append("more"),
        lambda: raw["classes"].__setitem__(0, "renamed"),
        lambda: modality["shape"].append(1),
        lambda: modality["shape"].__setitem__(-1, modality["shape"][-1] + draw.choice([-1, 1])),
        lambda: modality["shape"].__setitem__(0, modality["shape"][0] + draw.choice([-1, 1])),
        lambda: modality.update(kind=draw.choice(["image", "vector", "sequence", "smell"])),
        lambda: modality.update(name=draw.choice(["other", "steps", "vector"])),
        lambda: raw.update(target=draw.choice(["multiclass", "multilabel"])),
        raw["modalities"].reverse,
        lambda: raw["modalities"].remove(modality),
        lambda: raw.update(draws=draw.choice([1, 2, 5])),
    ]
    draw.choice(changes)()
    keys = ("name", "modalities", "classes", "target")
    raw["spec_sha256"] = DatasetSpec.model_validate({key: raw[key] for key in keys}).digest()
    describe(folder, raw)


# --- wrong values in the files, written as a tool would ---------------------------------------------------------------


def is_array(path: Path) -> bool:
    return path.suffix == ".npy"


@corruption
def header(folder: Path, draw: random.Random) -> None:
    """An array file whose header is another; the numbers are the same."""
    path = draw.choice([*filter(is_array, data_files(folder)), folder / ".checked" / "samples.npy"])
    raw = path.read_bytes()
    size = int.from_bytes(raw[8:10], "little")
    text = raw[10 : 10 + size].decode("latin-1")
    shape = text[text.index("(") : text.index(")") + 1]
    wrong_values = [
        (
            shape,
            draw.choice(["()", "(1,)", "(99999999999999999999,)", "(-1, 3)", "(0, 5)", "(2**9,)", shape[:-1] + "1)"]),
        ),
        ("'<f4'", draw.choice(["'>f4'", "'<f8'", "'|O'", "'<i4'", "'|V4'", "[('a', '<f4')]", "'<f999'"])),
        ("False", draw.choice(["True", "0", "None"])),
        ("{", draw.choice(["{" * 200, "-" * 300 + "{", "", "{'more': 1, ", "__import__('os'){"])),
    ]
    text = text.replace(*draw.choice(wrong_values)).rstrip()
    padded = text.ljust(size - 1) + "\n" if len(text) < size else text
    length = draw.choice([len(padded), len(padded), len(padded), 65535]).to_bytes(2, "little")
    path.write_bytes(raw[:8] + length + padded.encode("latin-1") + raw[10 + size :])


@corruption
def array(folder: Path, draw: random.Random) -> None:
    """An array that another program saved, or that holds what it should not."""
    path = draw.choice([*filter(is_array, data_files(folder))])
    values = np.load(path)
    row = draw.randrange(len(values))
    spoilt = values.astype(np.float64)
    spoilt[row] = draw.choice([np.nan, np.inf, -np.inf])
    kinds = [
        spoilt.astype(np.float32),
        values.astype(np.float64),
        values.astype(">f4"),
        np.asfortranarray(values),
        values[:-1],
        np.concatenate([values, values[-1:]]),
        values[::-1],
        values[..., None],
        values[:0],
        values.astype(object),
        np.array(values[0]),
        np.roll(values, 1, axis=0),
    ]
    buffer = io.BytesIO()
    if draw.random() < 0.1:
        np.savez(buffer, a=values)
    else:
        np.save(buffer, draw.choice(kinds), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


@corruption
def table(folder: Path, draw: random.Random) -> None:
    """A table of samples that another program wrote, or whose values do not fit."""
    path = folder / "samples.parquet"
    found = pq.read_table(path)
    rows = found.to_pylist()
    one, other = draw.sample(rows, 2)
    value = draw.choice([None, -1, 3, 10**15, 0, 1, 2, "test", "nowhere", True, False, 1.5, [0], [1, 7], [None]])
    column = draw.choice(found.column_names)
    changes: list[Callable[[], object]] = [
        lambda: one.update({column: value}),
        lambda: one.update({column: value}),
        lambda: one.update({column: other[column]}),
        lambda: one.update({column: other[column]}),
        lambda: [row.update({column: value}) for row in rows],
        lambda: rows.append(dict(one)),
        lambda: rows.remove(one),
        rows.reverse,
        rows.clear,
        lambda: [row.pop(column) for row in rows],
        lambda: [row.update(more=1) for row in rows],
    ]
    draw.choice(changes)()
    try:
        changed = pa.Table.from_pylist(
            rows, schema=found.schema if rows and set(rows[0]) == set(found.column_names) else None
        )
    except (pa.ArrowException, TypeError, OverflowError):
        names = list(rows[0])
        changed = pa.table({name: [str(row[name]) for row in rows] for name in names})
    pq.write_table(changed, path)


# --- the stamp ------------------------------------------------------------------------------------------------------


@corruption
def stamped(folder: Path, draw: random.Random) -> None:
    path = folder / ".checked" / "stamp.json"
    raw = json.loads(path.read_text())
    place = draw.choice(places(raw))
    if draw.random() < 0.5:
        at(raw, place[:-1])[place[-1]] = draw.choice(ODD)
    else:
        del at(raw, place[:-1])[place[-1]]
    whole = [json.dumps(raw), json.dumps(raw), json.dumps(raw), "[" * 100_000, "[]", "null", '{"files": 1}', "1" * 5000]
    path.write_text(draw.choice(whole))


@corruption
def stale(folder: Path, draw: random.Random) -> None:
    """Data of the same kind under a stamp of before."""
    path = draw.choice([*filter(is_array, data_files(folder))])
    values = np.load(path)
    np.save(path, values + 1 if draw.random() < 0.5 else np.roll(values, 1))


def corrupted(folder: Path, kind: str, draw: random.Random, *, keep_times: bool) -> None:
    """Apply the corruption ``kind``; with ``keep_times`` no file looks younger than before."""
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    CORRUPTIONS[kind](folder, draw)
    for path, time in times.items():
        if keep_times and path.is_file() and not path.is_symlink():
            os.utime(path, ns=(time, time))
