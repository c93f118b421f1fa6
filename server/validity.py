"""Is a site's reply fit to be aggregated? A bad one becomes a failure with a reason; it never reaches an average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord, Message

from fedrecon_core.state import TransferPlan
from strategies import messages


def fault_of(reply: Message, plan: TransferPlan, current: Mapping[str, ArrayRecord]) -> str | None:
    """What is wrong with a train reply, or None. ``current`` are the global groups that the site was sent."""
    try:
        found = messages.read_result(reply.content)
    except KeyError as error:
        return f"the reply lacks the record {error}"
    except (TypeError, ValueError) as error:
        return f"the reply cannot be read: {error}"
    stray = sorted(set(found.groups) - set(plan.upload))
    if stray:
        return f"uploaded {', '.join(stray)}, which its transfer plan does not hold"
    for group, record in sorted(found.groups.items()):
        fault = _count_fault(found.counts.get(group)) or _tensor_fault(record, current[group])
        if fault:
            return f"{group}: {fault}"
    return None


def _count_fault(count: int | None) -> str | None:
    if count is None or count <= 0:
        return f"expected a count above 0 beside an upload, found {count}"
    return None


def _tensor_fault(record: ArrayRecord, current: ArrayRecord) -> str | None:
    if set(record) != set(current):
        return f"expected the tensors {sorted(current)}, found {sorted(record)}"
    for name, array in sorted(record.items()):
        if array.shape != current[name].shape or array.dtype != current[name].dtype:
            expected = f"{current[name].dtype} {tuple(current[name].shape)}"
            return f"{name}: expected {expected}, found {array.dtype} {tuple(array.shape)}"
        if not np.isfinite(array.numpy()).all():
            return f"{name} holds NaN or infinity; the site diverged (a smaller local learning rate may help)"
    return None
