"""Decode and validate replies of sites. An invalid reply raises ``ReplyError`` and never reaches an average or a
sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from flwr.app import RecordDict
from torch import Tensor

from fedrecon_core.local.evaluate import Score
from fedrecon_core.metrics.histograms import confusion_matrices
from fedrecon_core.state import STRATEGY_GROUPS, State, TransferPlan
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec
from server.federation.messaging import ReplyError
from strategies import messages
from strategies.messages import SiteInfo, TrainReply

TIMES = ("total", "processor")
"""The times in every train reply that the result of a run adds up."""


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Convert all exceptions that a malformed reply may raise into ``ReplyError``, so that it does not end the run."""
    try:
        yield
    except ReplyError:
        raise
    except KeyError as error:
        raise ReplyError(f"its {what} lacks {error}") from error
    except Exception as error:
        raise ReplyError(
            f"its {what} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


# --- descriptions ---------------------------------------------------------------------------------------------------


def read_description(content: RecordDict) -> SiteInfo:
    """A site's description, validated."""
    with _decoding("description"):
        info = messages.read_site_info(content)
        if not SITE_NAME.fullmatch(info.name):
            raise ReplyError(f"site: expected {SITE_NAME_RULE}, found {info.name!r}")
        if info.own is None:  # the registry refuses it
            return info
        spec, holdings = DatasetSpec.model_validate_json(info.own.spec), info.own.holdings
        if spec.digest() != info.spec_hash:
            expected = f"expected {spec.digest()}, the hash of its data specification"
            raise ReplyError(f"site {info.name}: {expected}, found {info.spec_hash}")
        stray = sorted(set(info.modalities) - set(spec.names))
        if stray:
            raise ReplyError(
                f"site {info.name}: expected modalities of its data specification, found {', '.join(stray)} as well"
            )
        if info.samples != holdings["train"].samples:
            raise ReplyError(
                f"site {info.name}: expected {holdings['train'].samples} training samples as in its splits, "
                f"found {info.samples}"
            )
        for name, (count, values, squares) in info.sums.items():
            where, features = f"site {info.name}: its statistics of {name}", math.prod(spec[name].features)
            if not len(values) == len(squares) == features:
                raise ReplyError(
                    f"{where}: expected {features} features, found {len(values)} sums and {len(squares)} squares"
                )
            if not (math.isfinite(count) and count > 0):
                raise ReplyError(f"{where}: expected a count above 0, found {count}")
            if not all(map(math.isfinite, (*values, *squares))) or min(squares, default=0.0) < 0:
                raise ReplyError(
                    f"{where}: expected finite sums, and squares of at least 0; are there NaN or infinity in its data?"
                )
        for split in SPLITS:
            counts = (holdings[split].samples, *holdings[split].present.values())
            if min(counts) < 0 or max(counts) > counts[0]:
                raise ReplyError(
                    f"site {info.name}: expected between 0 and its {counts[0]} {split} samples with each modality, "
                    f"found {list(counts[1:])}"
                )
    return info


# --- training -------------------------------------------------------------------------------------------------------


def validate_train_reply(
    content: RecordDict, plan: TransferPlan, current: Mapping[str, State], site: SiteInfo
) -> TrainReply:
    """A site's train reply, validated. ``current`` are the global groups that the site was sent, including the
    additional groups of the strategy; ``site`` is its description."""
    with _decoding("reply"):
        reply = messages.read_train_reply(content)
    extra = {group for group in reply.groups if group.startswith(STRATEGY_GROUPS)}
    if unsent := sorted(extra - set(current)):
        raise ReplyError(f"uploaded {', '.join(unsent)}, expected only groups that the strategy sent to the site")
    if stray := sorted(set(reply.groups) - extra - set(plan.upload)):
        raise ReplyError(f"uploaded {', '.join(stray)}, which its transfer plan does not contain")
    if missing := sorted(group for group, count in reply.counts.items() if count and group not in reply.groups):
        raise ReplyError(f"expected {', '.join(missing)}, for which it sent a count, found none")
    for group, state in sorted(reply.groups.items()):
        count, real = reply.counts.get(group), reply.real.get(group, 0)
        if count is None or count <= 0:
            raise ReplyError(f"{group}: expected a count above 0 with an upload, found {count}")
        if count > site.samples:
            most = f"at most the site's {site.samples} training samples"
            raise ReplyError(f"{group}: expected a count of {most}, found {count}")
        if not 0 <= real <= count:
            raise ReplyError(f"{group}: expected between 0 and {count} real rows among the {count}, found {real}")
        _check_tensors(group, state, current[group])
    for what, expected, found in (  # not the data hash: a site's data may grow
        ("code", site.identity.code_hash, reply.identity.code_hash),
        ("data specification", site.identity.spec_hash, reply.identity.spec_hash),
    ):
        if found != expected:
            raise ReplyError(f"the site's {what} changed during the run: expected hash {expected}, found {found}")
    _check_numbers(reply)
    return reply


def _check_tensors(group: str, state: State, current: State) -> None:
    def form(tensor: Tensor) -> str:
        return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"

    if set(state) != set(current):
        raise ReplyError(f"{group}: expected the tensors {sorted(current)}, found {sorted(state)}")
    for name, tensor in sorted(state.items()):
        if tensor.shape != current[name].shape or tensor.dtype != current[name].dtype:
            raise ReplyError(f"{group}: {name}: expected {form(current[name])}, found {form(tensor)}")
        if not bool(tensor.isfinite().all()):
            raise ReplyError(
                f"{group}: {name} contains NaN or infinity; the site diverged (a smaller local learning rate may help)"
            )


def _check_numbers(reply: TrainReply) -> None:
    """Check times, numbers of items and qualities. Losses may diverge, since they are only shown; but the quality of a
    mapping is a weight at every site."""
    for name in dict.fromkeys((*TIMES, *reply.seconds)):
        seconds = reply.seconds.get(name, math.nan)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ReplyError(f"expected a time {name} of at least 0 seconds, found {reply.seconds.get(name)}")
    if stray := sorted(set(reply.quality) - set(reply.groups)):
        raise ReplyError(f"expected a quality only for uploaded groups, found one for {', '.join(stray)}")
    for name in reply.metrics:
        items = reply.metrics.get(name.replace(".loss", ".items"), 0.0)
        if not (math.isfinite(items) and items > 0):
            raise ReplyError(f"expected a positive number of items for {name}, found {items}")
    if bad := sorted(group for group, score in reply.quality.items() if not math.isfinite(score)):
        raise ReplyError(f"expected a finite quality of {', '.join(bad)}, found {reply.quality[bad[0]]}")


# --- evaluation -----------------------------------------------------------------------------------------------------


def read_score(content: RecordDict, split: str, spec: DatasetSpec, samples: int) -> Score:
    """A site's score on its ``samples`` of ``split``, validated. A loss may diverge, since it is only shown."""
    with _decoding("score"):
        record = messages.scores_of(content)
        score = messages.read_scores(record, spec)[split]
        # serializing the score again must give the same record: counts are whole numbers, and there is nothing else
        expected = messages.scores_of(messages.write_scores({split: score}))
        losses = {key for key in expected if isinstance(expected[key], float)}
        odd = sorted(key for key in record if key not in losses and record[key] != expected.get(key))
    if odd:
        raise ReplyError(f"expected whole numbers, and scores of {split} only, found others in {', '.join(odd)}")
    # sums are Python integers, which do not overflow
    tables = [[cells.flatten().tolist() for cells in counts.matrices] for counts in (score.counts, score.empty)]
    least = min(cell for table in tables for cells in table for cell in cells)
    if least < 0:
        raise ReplyError(f"expected counts of at least 0 in a confusion matrix, found {least}")
    for table in tables:
        sums = sorted({sum(cells) for cells in table})
        if len(sums) > 1:
            raise ReplyError(
                f"expected equally many samples for each class, found {sums[0]} for one and {sums[-1]} for another"
            )
    total = sum(sum(table[0]) for table in tables)
    if total > samples:
        raise ReplyError(f"expected scores of at most its {samples} samples of {split}, found {total}")
    counts = score.counts
    if counts.histograms is not None:  # they must be of the samples in the confusion matrices
        least, most = int(counts.histograms.min()), int(counts.histograms.max())
        if least < 0 or most > counts.samples:  # within these bounds the sums of the bins do not overflow
            found = least if least < 0 else most
            raise ReplyError(
                f"expected between 0 and its {counts.samples} scored samples in each bin of a histogram, found {found}"
            )
        if not np.array_equal(confusion_matrices(counts.histograms), counts.confusion):
            raise ReplyError("its histograms of scores and its confusion matrices are of different samples")
    return score
