"""``predictions.parquet``: what the model said of every test sample under every mask, for paired comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from fedrecon_core.data.site_data import SiteData
from fedrecon_core.errors import RunError
from fedrecon_core.files import DISK_ERRORS, reason, replace_file
from fedrecon_core.local.evaluate import Predictions
from fedrecon_core.task.target import target_of


def write_predictions(path: Path, data: SiteData, predictions: Predictions) -> None:
    """One row per sample and mask: ``id``, ``group`` (what a bootstrap draws), ``label``, ``predicted``, and one bool
    column ``has_<modality>``. Of a multilabel set ``label`` and ``predicted`` are lists of positions of classes, and
    ``probability_<class>`` stands beside them. The file is replaced whole; a full disk or an unwritable folder is a
    ``RunError``."""
    columns = {
        "id": data.ids,
        "group": data.cluster_ids,
        **target_of(data.spec).columns(predictions.logits, data.labels, data.spec.classes),
        **{f"has_{name}": data.present[:, column] for column, name in enumerate(data.spec.names)},
    }
    table = pa.table({name: _column(values) for name, values in columns.items()})
    try:
        replace_file(path, lambda partial: pq.write_table(table, partial))
    except DISK_ERRORS as error:
        raise RunError(f"cannot write {path}: {reason(error)}; make room or mend its rights, then resume") from None


def _column(values: Tensor | list[list[int]]) -> pa.Array:
    if isinstance(values, Tensor):
        return pa.array(np.asarray(values.cpu()))
    return pa.array(values, type=pa.list_(pa.int64()))
