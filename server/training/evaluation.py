"""Evaluate the global model at the server on central data, or at the sites on their own data."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from flwr.app import RecordDict

from fedrecon_core.config import Engine
from fedrecon_core.data.allocation import SERVER, ServerData
from fedrecon_core.data.site_data import SiteData, open_site
from fedrecon_core.data.statistics import scaled
from fedrecon_core.errors import RunError
from fedrecon_core.files import DISK_ERRORS, reason, replace_file
from fedrecon_core.local.evaluate import Predictions, Score, predict
from fedrecon_core.metrics.accuracy import Accuracy
from fedrecon_core.metrics.base import all_metrics
from fedrecon_core.recovery.stage import GlobalInfo
from fedrecon_core.runtime import choose_device
from fedrecon_core.state import State, write_group
from fedrecon_core.task.target import target_of
from server.federation.messaging import Channel, Replies, needed
from server.federation.registration import RunSites
from server.federation.reply_validation import read_score
from strategies.fedavg import FedAvg


class NotScoredError(RunError):
    """Too few sites have scored a model. The model itself is not affected."""


@dataclass(frozen=True)
class Scored:
    """A pooled score. If the sites evaluate, ``replies`` contains each site's score, or the reason why it has none."""

    score: Score
    replies: Replies[Score] | None = None


class Evaluator(ABC):
    """Base class: scores a state of the global groups on a split."""

    @abstractmethod
    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, refresh: Callable[[], None]
    ) -> Scored:
        """The pooled score on ``validation`` or ``test``; ``NotScoredError`` below the quorum. ``refresh`` updates the
        federation."""


class ServerEvaluator(Evaluator):
    """Scores the central validation and test sets under their masks, as in the benchmark."""

    def __init__(self, sites: RunSites, server_data: ServerData, directory: Path) -> None:
        """Build the modules. The central sets are opened when they are scored for the first time. Predictions on the
        test set are written into ``directory``."""
        config = sites.federation.config
        self._recovery, self._server_data, self._directory = sites.recovery, server_data, directory
        self._device = choose_device(config.device)
        self._groups = {name: module.to(self._device) for name, module in sites.recovery.build().items()}
        self._threads = threads_of(config.engine, self._device)
        self._sets: dict[str, SiteData] = {}

    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, refresh: Callable[[], None]
    ) -> Scored:
        """Score the central set ``split``; predictions on the test samples are written to ``predictions.parquet``."""
        for name, state in model.items():
            write_group(self._groups[name], state)
        if split not in self._sets:
            allocation, sealed = self._server_data.allocation, self._recovery.reads_absent
            share = {"validation": allocation.validation, "test": allocation.test}[split][SERVER]
            dataset, device = self._server_data.dataset, self._device
            opened = open_site(dataset, share.samples, share.present, device=device, sealed=sealed)
            self._sets[split] = scaled(opened, global_info.statistics)
        data = self._sets[split]
        info = global_info.after_scaling(data.spec)
        found = predict(self._recovery, self._groups, info, data, split, threads=self._threads)
        if split == "test":
            write_predictions(self._directory / "predictions.parquet", data, found)
        # all samples are here, so that metrics are computed exactly and not from histograms of scores
        score, seen = found.score(data), data.present.any(dim=1)
        exact = target_of(data.spec).with_scores(score.counts, found.logits[seen], data.labels[seen])
        return Scored(replace(score, counts=exact))


def write_predictions(path: Path, data: SiteData, predictions: Predictions) -> None:
    """Write the predictions for paired comparisons to a Parquet file: one row per sample and mask.

    Columns: ``id``, ``group`` (the unit that a bootstrap draws), ``label``, ``predicted``, and one bool column
    ``has_<modality>``. For multilabel data, ``label`` and ``predicted`` are lists of indices of classes, and there is a
    column ``probability_<class>`` for each class. The file is replaced atomically.

    Raises:
        RunError: the file cannot be written.
    """
    columns: dict[str, torch.Tensor | list[list[int]]] = {
        "id": data.ids,
        "group": data.cluster_ids,
        **target_of(data.spec).columns(predictions.logits, data.labels, data.spec.classes),
        **{f"has_{name}": data.present[:, column] for column, name in enumerate(data.spec.names)},
    }
    lists = pa.list_(pa.int64())
    table = pa.table(
        {
            name: pa.array(np.asarray(values.cpu())) if isinstance(values, torch.Tensor) else pa.array(values, lists)
            for name, values in columns.items()
        }
    )
    try:
        replace_file(path, lambda partial: pq.write_table(table, partial))
    except DISK_ERRORS as error:
        advice = "free disk space or correct its permissions, then resume"
        raise RunError(f"cannot write {path}: {reason(error)}; {advice}") from None


def threads_of(engine: Engine, device: torch.device) -> int:
    """How many batches the server reads at the same time: as many as there are workers on its machine, which are idle
    during the evaluation. One if the sites run elsewhere, since the server's share of its machine is unknown then."""
    here = engine.simulated and engine.ray_address is None and device.type == "cpu"
    return engine.workers if here else 1


class SiteEvaluator(Evaluator):
    """Scores by an additional message to the sites with samples of the split."""

    def __init__(self, sites: RunSites, strategy: FedAvg, channel: Channel) -> None:
        self._sites, self._strategy, self._channel = sites, strategy, channel

    def score(
        self, split: str, model: Mapping[str, State], global_info: GlobalInfo, refresh: Callable[[], None]
    ) -> Scored:
        """Add up the sites' counts; below the quorum, repeat this with the sites that are connected then. Invalid
        replies are failures; sites that failed are asked for their description again."""
        federation, config = self._sites.federation, self._channel.config.sites

        def read(name: str, content: RecordDict) -> Score:
            return read_score(content, split, federation.spec, federation.samples(name, split))

        for _ in range(config.retries + 1):
            try:
                refresh()
            except RunError as error:
                raise NotScoredError(str(error)) from None
            with federation.as_of(global_info):
                sent = self._strategy.evaluate_messages(global_info.round, model, split)
            replies = self._channel.exchange(sent).decode(read)
            self._sites.mark_stale(sorted(replies.failures))
            if replies.received and len(replies.received) >= needed(config.quorum, len(sent)):
                return Scored(reduce(operator.add, replies.received.values()), replies)
            if not sent:
                raise NotScoredError(f"evaluation on {split}: no connected site has samples of it")
        raise NotScoredError(
            f"evaluation on {split}: {replies.answered()}, the quorum is {config.quorum:.0%} (sites.quorum). "
            f"{replies.reasons()}"
        )


def evaluator_for(sites: RunSites, strategy: FedAvg, channel: Channel, directory: Path) -> Evaluator:
    """The evaluator that ``evaluate.where`` selects."""
    if channel.config.evaluate.where == "server" and sites.server_data is not None:
        return ServerEvaluator(sites, sites.server_data, directory)
    return SiteEvaluator(sites, strategy, channel)


def metrics_line(round_: int, split: str, scored: Scored) -> dict[str, Any]:
    """The line of ``metrics.jsonl``. ``<metric>_error`` bounds the error of a metric that may not be exact.
    ``<metric>_classes`` is the number of classes in the mean of a metric that may be undefined for some classes; if it
    is 0, the metric itself is left out. Samples without any modality are scored separately, in fields ``empty_*``. If
    the sites evaluate, ``sites`` is the number of sites that were asked, and ``failures`` the reasons of failures."""
    score = scored.score
    n, empty = score.counts.samples, score.empty.samples
    line = {"round": round_, "split": split, "n": n, "loss": score.loss_sum / max(n, 1), **all_metrics(score.counts)}
    if empty:
        line.update({"empty_n": empty, "empty_accuracy": Accuracy.compute(score.empty)})
    if scored.replies is not None:
        failures = {"failures": dict(scored.replies.failures)} if scored.replies.failures else {}
        line.update({"sites": scored.replies.asked, **failures})
    return line


def selected(line: Mapping[str, Any], select: str) -> float:
    """The score in ``line`` by which ``evaluate.select`` compares rounds; ``RunError`` if it does not exist."""
    if select not in line:
        raise RunError(
            f"evaluate.select: round {line['round']} has no {select}: expected a class that some but not all of the "
            f"{line['n']} {line['split']} samples have, found none; select another metric or hold out more samples"
        )
    return float(line[select])
