"""``fedrecon coherence``: measure the cross-modal coherence of a trained run against the bounds of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedrecon_core.errors import DataError, UsageError
from server.runs.directory import RunDirectory
from server.runs.setup import load_config
from server.sweep.paths import Kind, expect

if TYPE_CHECKING:
    from fedrecon_core.recovery.coherence import Coherence


def measure(path: Path, sample: bool) -> Coherence:
    """Coherence of the run in ``path`` on its test split; ``sample`` draws latents instead of taking their means."""
    import torch  # here: other commands do without it

    from fedrecon_core import seeding
    from fedrecon_core.data.dataset import load_dataset
    from fedrecon_core.data.statistics import scaled_dataset
    from fedrecon_core.inference import load_model
    from fedrecon_core.recovery import coherence

    torch.set_num_threads(1)  # results depend on the number of threads
    run = RunDirectory(path.resolve())
    if not run.model.is_dir():
        raise UsageError(f"{path} has no trained model (model/ is missing); give the directory of a completed run")
    config, model = load_config(run.config), load_model(run.model)
    translator = model.recovery.translator(model.groups, model.global_info)
    if translator is None:
        raise DataError(f"recovery '{config.recovery.name}' has no generators, so there is nothing to measure")
    dataset = scaled_dataset(load_dataset(config), model.global_info.statistics)
    if dataset.spec.target == "multilabel":
        raise DataError(f"coherence needs one class per sample; those of {dataset.spec.name} may have several, or none")
    if dataset.offsets:
        raise DataError(f"coherence needs modalities of one shape; these vary in length: {', '.join(dataset.offsets)}")
    judges = {name: coherence.train_judge(dataset, name) for name in dataset.spec.names}
    with seeding.scope(config.seed, "coherence"):
        return coherence.coherence(
            dataset,
            lambda values, names: translator.translate(values, names, sample) if translator.translates(names) else None,
            judges,
        )


def coherence(
    directory: Annotated[Path, typer.Argument(help="A completed run with generators.")],
    sample: Annotated[bool, typer.Option("--sample", help="Draw latents instead of taking their means.")] = False,
) -> None:
    """Measure cross-modal coherence of a run on its test split, and write coherence.json."""
    expect(directory, Kind.RUN)
    found = measure(directory, sample)
    RunDirectory(directory.resolve()).write_json(
        "coherence.json",
        {
            "cross": found.cross,
            "self": found.own,
            "classifier": found.classifier,
            "pairs": {f"{source}->{target}": score for (source, target), score in found.pairs.items()},
            "untrained": [f"{source}->{target}" for source, target in found.untrained],
        },
    )
    table = Table(title="accuracy of an independent classifier on reconstructions (row: source, column: target)")
    for heading in ("source", *found.real, "real"):
        table.add_column(heading, justify="right")
    for source, score in found.real.items():  # the diagonal is self-reconstruction
        table.add_row(source, *(f"{found.pairs[source, target]:.3f}" for target in found.real), f"{score:.3f}")
    Console().print(table)
    typer.echo(f"cross {found.cross:.3f}  self {found.own:.3f}  classifier on real data {found.classifier:.3f}")


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    application.command("coherence")(coherence)
