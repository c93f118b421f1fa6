"""``predictions.parquet``: what the model said of every test sample under every mask, for paired comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedrecon_core.data.site import SiteData
from fedrecon_core.disk import DISK_ERRORS, reason, replace_file
from fedrecon_core.errors import RunError
from fedrecon_core.local.evaluate import Predictions


def write_predictions(path: Path, data: SiteData, predictions: Predictions) -> None:
    """One row per sample and mask: ``id``, ``group`` (what a bootstrap draws), ``label``, ``predicted``, and one bool
    column ``has_<modality>``. The file is replaced whole; a full disk or an unwritable folder is a ``RunError``."""
    columns = {
        "id": data.ids,
        "group": data.groups,
        "label": data.labels,
        "predicted": predictions.logits.argmax(dim=1),
        **{f"has_{name}": data.present[:, column] for column, name in enumerate(data.spec.names)},
    }
    table = pa.table({name: np.asarray(tensor.cpu()) for name, tensor in columns.items()})
    try:
        replace_file(path, lambda partial: pq.write_table(table, partial))
    except DISK_ERRORS as error:
        raise RunError(f"cannot write {path}: {reason(error)}; make room or mend its rights, then resume") from None
