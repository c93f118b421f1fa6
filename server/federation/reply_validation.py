"""Decode and validate the replies of sites. A bad reply is a ``ReplyError`` and never reaches an average or a sum."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from flwr.app import RecordDict
from torch import Tensor

from fedrecon_core.local.evaluate import Score
from fedrecon_core.metrics.base import Counts
from fedrecon_core.metrics.histograms import confusion_matrices
from fedrecon_core.state import STRATEGY_GROUPS, State, TransferPlan
from fedrecon_core.types import SITE_NAME, SITE_NAME_RULE, SPLITS, DatasetSpec
from server.federation.messaging import ReplyError
from strategies import messages
from strategies.messages import SiteInfo, TrainReply

TIMES = ("total", "processor")
"""The times in every train reply, which a run's result adds up."""


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn whatever a malformed reply raises into a ``ReplyError``: it must not end the run, and there is no list of
    all that may be raised."""
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
        if info.own is not None:  # a site without data of its own is the registry's business
            _check_own_data(info, DatasetSpec.model_validate_json(info.own.spec), info.own.holdings)
        return info


def _check_own_data(info: SiteInfo, spec: DatasetSpec, holdings: Mapping[str, messages.Holding]) -> None:
    if spec.digest() != info.spec_hash:
        raise ReplyError(
            f"site {info.name}: its specification has the hash {spec.digest()}, it reports {info.spec_hash}"
        )
    stray = sorted(set(info.modalities) - set(spec.names))
    if stray:
        raise ReplyError(f"site {info.name}: reports {', '.join(stray)}, which its specification does not have")
    if info.samples != holdings["train"].samples:
        raise ReplyError(
            f"site {info.name}: has {holdings['train'].samples} training samples, it reports {info.samples}"
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
            raise ReplyError(f"site {info.name}: impossible numbers of {split} samples: {list(counts)}")


# --- training -------------------------------------------------------------------------------------------------------


def validate_train_reply(
    content: RecordDict, plan: TransferPlan, current: Mapping[str, State], site: SiteInfo
) -> TrainReply:
    """A site's train reply, validated. ``current`` are the global groups that the site was sent, the strategy's extra
    groups among them; ``site`` is its description."""
    with _decoding("reply"):
        reply = messages.read_train_reply(content)
    extra = {group for group in reply.groups if group.startswith(STRATEGY_GROUPS)}
    if unsent := sorted(extra - set(current)):
        raise ReplyError(
            f"uploaded {', '.join(unsent)}, which the strategy does not send beside what the site may upload"
        )
    if stray := sorted(set(reply.groups) - extra - set(plan.upload)):
        raise ReplyError(f"uploaded {', '.join(stray)}, which its transfer plan does not hold")
    if missing := sorted(group for group, count in reply.counts.items() if count and group not in reply.groups):
        raise ReplyError(f"expected {', '.join(missing)}, of which it has a count, found none")
    for group, state in sorted(reply.groups.items()):
        count, real = reply.counts.get(group), reply.real.get(group, 0)
        if count is None or count <= 0:
            raise ReplyError(f"{group}: expected a count above 0 beside an upload, found {count}")
        if count > site.samples:
            most = f"at most the site's {site.samples} training samples"
            raise ReplyError(f"{group}: expected a count of {most}, found {count}")
        if not 0 <= real <= count:
            raise ReplyError(f"{group}: expected between 0 and {count} real ones among the {count}, found {real}")
        _check_tensors(group, state, current[group])
    for what, expected, found in (  # the data themselves may grow
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
                f"{group}: {name} holds NaN or infinity; the site diverged (a smaller local learning rate may help)"
            )


def _check_numbers(reply: TrainReply) -> None:
    """Losses may diverge and are only shown; a mapping's quality weighs sources at every site."""
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
    """A site's score on ``split``, of which it has ``samples``, validated. A loss may diverge, and is only shown."""
    with _decoding("score"):
        record = messages.scores_of(content)
        score = messages.read_scores(record, spec)[split]
        # the record must hold exactly what was read of it: counts are whole numbers, and nothing else was sent
        expected = messages.scores_of(messages.write_scores({split: score}))
        losses = {key for key in expected if isinstance(expected[key], float)}
        odd = sorted(key for key in record if key not in losses and record[key] != expected.get(key))
    if odd:
        raise ReplyError(f"expected whole numbers, and scores of {split} alone, found others in {', '.join(odd)}")
    # sums are Python integers, which do not overflow
    tables = [[cells.flatten().tolist() for cells in counts.matrices] for counts in (score.counts, score.empty)]
    least = min(cell for table in tables for cells in table for cell in cells)
    if least < 0:
        raise ReplyError(f"expected counts of at least 0 in a confusion matrix, found {least}")
    for table in tables:
        sums = sorted({sum(cells) for cells in table})
        if len(sums) > 1:
            raise ReplyError(
                f"expected as many answers for every class, found {sums[0]} for one and {sums[-1]} for another"
            )
    total = sum(sum(table[0]) for table in tables)
    if total > samples:
        raise ReplyError(f"expected scores of at most its {samples} samples of {split}, found {total}")
    _check_histograms(score.counts)
    return score


def _check_histograms(counts: Counts) -> None:
    """The histograms must be of the samples in the confusion matrices."""
    if counts.histograms is None:
        return
    least, most = int(counts.histograms.min()), int(counts.histograms.max())
    if least < 0 or most > counts.samples:  # within these bounds the sums of the bins do not overflow
        found = least if least < 0 else most
        raise ReplyError(
            f"expected between 0 and its {counts.samples} scored samples in each bin of a histogram, found {found}"
        )
    if not torch.equal(confusion_matrices(counts.histograms), counts.confusion):
        raise ReplyError("its histograms of scores and its confusion matrices are of different samples")
