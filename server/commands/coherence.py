"""``fedrecon coherence``: cross-modal coherence of a trained run, with the classifier's bounds beside it."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.table import Table

from fedrecon_core import seeding
from fedrecon_core.data.dataset import load_dataset
from fedrecon_core.data.statistics import scaled_dataset
from fedrecon_core.errors import DataError, UsageError
from fedrecon_core.inference import load_model
from fedrecon_core.metrics.coherence import Coherence, coherence, train_judge
from server.runs.directory import RunDirectory
from server.runs.setup import load_config


def measure(path: Path, sample: bool) -> Coherence:
    """Coherence of the run at ``path`` on its test split; ``sample`` draws latents instead of taking their mean."""
    torch.set_num_threads(1)
    directory = RunDirectory(path.resolve())
    if not directory.model.is_dir():
        raise UsageError(f"{path} holds no trained model (model/ is missing); give the directory of a completed run")
    config, model = load_config(directory.config), load_model(directory.model)
    maker = model.recovery.translator(model.groups, model.global_info)
    if maker is None:
        raise DataError(f"recovery '{config.recovery.name}' has no generators, so nothing to measure")
    dataset = scaled_dataset(load_dataset(config), model.global_info.statistics)
    if dataset.spec.target == "multilabel":
        raise DataError(f"coherence needs one class per sample; those of {dataset.spec.name} may have several, or none")
    if dataset.offsets:
        raise DataError(f"coherence needs modalities of one shape; these vary in length: {', '.join(dataset.offsets)}")
    judges = {name: train_judge(dataset, name) for name in dataset.spec.names}
    with seeding.scope(config.seed, "coherence"):
        return coherence(
            dataset,
            lambda values, names: maker.translate(values, names, sample) if maker.translates(names) else None,
            judges,
        )


def table(found: Coherence) -> Table:
    """Rows: source; columns: target; the diagonal is self-reconstruction."""
    names = list(found.real)
    shown = Table(title="accuracy of an independent classifier on reconstructions (row: source, column: target)")
    for heading in ("source", *names, "real"):
        shown.add_column(heading, justify="right")
    for source in names:
        cells = [f"{found.pairs[source, target]:.3f}" for target in names]
        shown.add_row(source, *cells, f"{found.real[source]:.3f}")
    return shown


def record(found: Coherence) -> dict[str, object]:
    """The same as plain values, for ``coherence.json``."""
    return {
        "cross": found.cross,
        "self": found.own,
        "classifier": found.classifier,
        "pairs": {f"{source}->{target}": score for (source, target), score in found.pairs.items()},
        "untrained": [f"{source}->{target}" for source, target in found.untrained],
    }
