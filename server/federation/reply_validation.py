"""Is a site's reply fit to be used? A bad one becomes a failure with a reason; it never reaches an average or a sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord

from fedrecon_core.data.statistics import Sums
from fedrecon_core.local.evaluate import Score
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import answers
from fedrecon_core.state import STRATEGY_GROUPS, TransferPlan
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec
from strategies import messages
from strategies.messages import Identity, SiteInfo, TrainReply

TIMES = ("total", "processor")
"""What every reply tells, and a run's result adds up."""


def read_description(reply: Message) -> SiteInfo | str:
    """What a site says of itself, or what is wrong with it."""
    try:
        found = messages.read_site(reply.content)
        fault = _description_fault(found)
    except Exception as error:
        return _unreadable("description", error)
    return fault or found


def _unreadable(what: str, error: Exception) -> str:
    """In words. Whatever a site sends, it must not end the run, and there is no list of all that may be raised."""
    if isinstance(error, KeyError):
        return f"its {what} lacks {error}"
    return f"its {what} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"


def _description_fault(info: SiteInfo) -> str | None:
    if not SITE_NAME.fullmatch(info.name):
        return f"site: expected {SITE_NAME_RULE}, found {info.name!r}"
    if info.own is None:
        return None  # the registry says what to do about that
    spec = DatasetSpec.model_validate_json(info.own.spec)
    if spec.digest() != info.spec_hash:
        return f"site {info.name}: its specification has the hash {spec.digest()}, it says {info.spec_hash}"
    stray = sorted(set(info.modalities) - set(spec.names))
    if stray:
        return f"site {info.name}: holds {', '.join(stray)}, of which its specification knows nothing"
    if info.samples != info.own.holdings["train"].samples:
        return f"site {info.name}: holds {info.own.holdings['train'].samples} training samples, it says {info.samples}"
    for name, sums in info.sums.items():
        if (fault := _sums_fault(sums, math.prod(spec[name].features))) is not None:
            return f"site {info.name}: its statistics of {name}: {fault}"
    for split in SPLITS:
        counts = (info.own.holdings[split].samples, *info.own.holdings[split].present.values())
        if min(counts) < 0 or max(counts) > counts[0]:
            return f"site {info.name}: impossible numbers of {split} samples: {list(counts)}"
    return None


def _sums_fault(sums: Sums, features: int) -> str | None:
    count, values, squares = sums
    if not len(values) == len(squares) == features:
        return f"expected {features} features, found {len(values)} sums and {len(squares)} squares"
    if not (math.isfinite(count) and count > 0):
        return f"expected a count above 0, found {count}"
    if not all(map(math.isfinite, (*values, *squares))) or min(squares, default=0.0) < 0:
        return "expected finite sums, and squares of at least 0; are there NaN or infinity in its data?"
    return None


def read_reply(
    reply: Message, plan: TransferPlan, current: Mapping[str, ArrayRecord], site: SiteInfo
) -> TrainReply | str:
    """A site's train reply, or what is wrong with it. ``current`` are the global groups that the site was sent, those
    that the strategy sent beside its ``plan`` among them, ``site`` what it said of itself."""
    try:
        found, now = messages.read_result(reply.content), messages.read_identity(reply.content)
    except Exception as error:
        return _unreadable("reply", error)
    fault = _stray_fault(found, plan, current) or _group_fault(found, current, site)
    return fault or _identity_fault(now, site.identity) or _number_fault(found) or found


def _group_fault(found: TrainReply, current: Mapping[str, ArrayRecord], site: SiteInfo) -> str | None:
    """Every count belongs to a group, and every group has a count and the tensors that were sent."""
    missing = sorted(group for group, count in found.counts.items() if count and group not in found.groups)
    if missing:
        return f"expected {', '.join(missing)}, of which it has a count, found none"
    for group, record in sorted(found.groups.items()):
        fault = _count_fault(found, group, site.samples) or _tensor_fault(record, current[group])
        if fault:
            return f"{group}: {fault}"
    return None


def _stray_fault(found: TrainReply, plan: TransferPlan, current: Mapping[str, ArrayRecord]) -> str | None:
    """A site sends back groups of its plan, and groups that the strategy sent beside it."""
    ours = {group for group in found.groups if group.startswith(STRATEGY_GROUPS)}
    unsent = sorted(ours - set(current))
    if unsent:
        return f"uploaded {', '.join(unsent)}, which the strategy does not send beside what the site may upload"
    stray = sorted(set(found.groups) - ours - set(plan.upload))
    return f"uploaded {', '.join(stray)}, which its transfer plan does not hold" if stray else None


def _identity_fault(now: Identity, known: Identity) -> str | None:
    """Code and data specification must be those with which the site was taken in; the data themselves may grow."""
    for what, expected, found in (
        ("code", known.code_hash, now.code_hash),
        ("data specification", known.spec_hash, now.spec_hash),
    ):
        if found != expected:
            return f"the site's {what} changed during the run: expected hash {expected}, found {found}"
    return None


def _count_fault(found: TrainReply, group: str, samples: int) -> str | None:
    count, real = found.counts.get(group), found.real.get(group, 0)
    if count is None or count <= 0:
        return f"expected a count above 0 beside an upload, found {count}"
    if count > samples:
        return f"expected a count of at most the site's {samples} training samples, found {count}"
    if not 0 <= real <= count:
        return f"expected between 0 and {count} real ones among the {count}, found {real}"
    return None


def _number_fault(found: TrainReply) -> str | None:
    """Losses may diverge and are only shown; a mapping's quality weighs sources at every site."""
    for name in dict.fromkeys((*TIMES, *found.seconds)):
        seconds = found.seconds.get(name, math.nan)
        if not (math.isfinite(seconds) and seconds >= 0):
            return f"expected seconds of at least 0 as its time ({name}), found {found.seconds.get(name)}"
    stray = sorted(set(found.quality) - set(found.groups))
    if stray:
        return f"a quality of {', '.join(stray)}, which it did not upload"
    for name in found.metrics:
        items = found.metrics.get(name.replace(".loss", ".items"), 0.0)
        if not (math.isfinite(items) and items > 0):
            return f"expected the number of items beside {name}, found {items}"
    bad = sorted(group for group, score in found.quality.items() if not math.isfinite(score))
    if bad:
        return f"expected a finite quality of {', '.join(bad)}, found {found.quality[bad[0]]}"
    return None


def _tensor_fault(record: ArrayRecord, current: ArrayRecord) -> str | None:
    if set(record) != set(current):
        return f"expected the tensors {sorted(current)}, found {sorted(record)}"
    for name, array in sorted(record.items()):
        if array.shape != current[name].shape or array.dtype != current[name].dtype:
            expected = f"{current[name].dtype} {tuple(current[name].shape)}"
            return f"{name}: expected {expected}, found {array.dtype} {tuple(array.shape)}"
        if not np.isfinite(messages.opened(array)).all():
            return f"{name} holds NaN or infinity; the site diverged (a smaller local learning rate may help)"
    return None


def score_fault(reply: Message, split: str, spec: DatasetSpec, samples: int) -> str | None:
    """What is wrong with a site's scores of ``split``, of which it holds ``samples``, or None. A loss may diverge, and
    is only shown."""
    try:
        record = messages.scores_of(reply.content)
        score = messages.read_scores(record, spec)[split]
    except Exception as error:
        return _unreadable("score", error)
    return _field_fault(record, split, score) or _cell_fault(score, split, samples) or _histogram_fault(score.counts)


def _field_fault(record: MetricRecord, split: str, score: Score) -> str | None:
    """What is summed is the record as it came, so that it must hold what was read of it, and no more."""
    read = messages.scores_of(messages.write_scores({split: score}))
    losses = {key for key in read if isinstance(read[key], float)}
    odd = sorted(key for key in record if key not in losses and record[key] != read.get(key))
    return f"expected whole numbers, and scores of {split} alone, found others in {', '.join(odd)}" if odd else None


def _cell_fault(score: Score, split: str, samples: int) -> str | None:
    """Each question that the counts answer must be answered for the same samples, of which there are no more than the
    site has. The sums are Python's, which do not overflow."""
    tables = [[cells.flatten().tolist() for cells in counts.questions] for counts in (score.counts, score.empty)]
    least = min(cell for table in tables for cells in table for cell in cells)
    if least < 0:
        return f"expected counts of at least 0 in a confusion matrix, found {least}"
    for table in tables:
        sums = sorted({sum(cells) for cells in table})
        if len(sums) > 1:
            return f"expected as many answers for every class, found {sums[0]} for one and {sums[-1]} for another"
    total = sum(sum(table[0]) for table in tables)
    if total > samples:
        return f"expected scores of at most its {samples} samples of {split}, found {total}"
    return None


def _histogram_fault(counts: Counts) -> str | None:
    """The halves of the histograms are the answers; that no bin is below 0 or above the samples makes the sums safe."""
    if counts.histograms is None:
        return None
    least, most = int(counts.histograms.min()), int(counts.histograms.max())
    if least < 0 or most > counts.samples:
        found = least if least < 0 else most
        return f"expected between 0 and its {counts.samples} scored samples in each bin of a histogram, found {found}"
    if not torch.equal(answers(counts.histograms), counts.confusion):
        return "its histograms of scores and its confusion matrices tell of different samples"
    return None
