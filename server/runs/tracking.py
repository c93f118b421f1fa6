"""Pass a run's numbers on to its trackers; a failure of one stops neither the run nor the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console

from fedrecon_core.config import RunConfig
from fedrecon_core.config.sections import AUTO
from fedrecon_core.errors import describe_error, one_line
from server.runs.directory import RunDirectory
from server.trackers.base import TrackedRun, Tracker
from server.trackers.choice import missing_of, trackers_of
from server.trackers.numbers import numbers_of_round

MEMORY, TRIAL = "tracking.json", "cell.json"
TAGS = ("engine", "seed", "device", "code_sha256", "partition_sha256", "mask_sha256")
"""The fields of the manifest that identify a run in a tracker."""


class Trackers:
    """Listens to the lines that are appended to a run directory, and passes their numbers on, round by round.

    ``RUN/tracking.json`` stores for each tracker its memory, the last round that it has recorded, and whether it has
    the result of the completed run. A resumed run continues from there; only a round that was being recorded when the
    process was killed is repeated. A tracker that missed rounds, or was added later, gets them from the files.
    """

    def __init__(self, config: RunConfig, directory: RunDirectory) -> None:
        """The trackers are created by ``choose``."""
        self._config, self._directory = config, directory
        self._all: dict[str, Tracker] = {}
        self._memory: dict[str, Any] = {}
        self._sites: list[Mapping[str, Any]] = []

    def choose(self) -> None:
        """Create the trackers of the config; ``ConfigError`` if one cannot be created (``trackers_of``)."""
        self._all = trackers_of(self._config)
        for text in missing_of(self._config):
            _tell(text)

    def start(self, last: int) -> None:
        """Start the trackers, once the manifest is written and the files end with the round ``last``."""
        self._memory = self._remembered()
        for name, tracker in list(self._all.items()):
            self._try(name, self._begin, name, tracker, last)
        self._directory.listen(self._heard)

    def _remembered(self) -> dict[str, Any]:
        """The stored state of the trackers. If it cannot be read, they begin anew; the run does not stop for that."""
        try:
            found = self._directory.read_json(MEMORY).items()
            return {name: _entry(known["round"], known["memory"], known.get("ended") is True) for name, known in found}
        except Exception as error:  # the file may have been edited
            _tell(f"{MEMORY} cannot be read, and trackers begin anew: {describe_error(error)}")
            return {}

    def _begin(self, name: str, tracker: Tracker, last: int) -> None:
        known = self._memory.get(name, _entry(0, {}))
        memory = tracker.start(self._run(last, known["memory"]))
        took = known["round"] if memory == known["memory"] else 0  # it began anew, and there is nothing there
        self._remember(name, min(took, last) if tracker.takes_back else took, memory)
        for round_, values in self._past(last):
            self._pass_on(name, tracker, round_, values)

    def _run(self, last: int, memory: Mapping[str, Any]) -> TrackedRun:
        manifest = self._directory.read_json("manifest.json")
        tags = {key: str(manifest[key]) for key in TAGS if manifest.get(key) is not None}
        config = self._config.model_dump(mode="json", exclude={"tracking"})
        trial = self._directory.read_json(TRIAL)  # lies in a cell of a sweep alone, wherever the cell is run
        name, labels = trial.get("name", self._config.name), trial.get("labels", {})
        return TrackedRun(self._directory.path, name, config, tags, last, memory, labels)

    def _past(self, last: int) -> Iterable[tuple[int, dict[str, float]]]:
        """The rounds that are in the files."""
        metrics, sites = (_by_round(self._directory.read_lines(f"{name}.jsonl")) for name in ("metrics", "sites"))
        return [(n, numbers_of_round(metrics[n], sites.get(n, []))) for n in sorted(metrics) if n <= last]

    def _heard(self, name: str, lines: list[Mapping[str, Any]]) -> None:
        """Pass on lines that the run has just written: those of the sites come before those of the round."""
        if name == "sites.jsonl":
            self._sites += lines
        if name != "metrics.jsonl" or lines[0]["split"] == "test":
            return
        values, self._sites = numbers_of_round(lines, self._sites), []
        for label, tracker in list(self._all.items()):
            self._try(label, self._hand_over, label, tracker, lines[0], values)

    def _hand_over(self, name: str, tracker: Tracker, first: Mapping[str, Any], values: Mapping[str, float]) -> None:
        if first["split"] == "train":
            return self._pass_on(name, tracker, first["round"], values)
        tracker.metrics(first["round"], values)  # a round that was trained before is scored only now

    def _pass_on(self, name: str, tracker: Tracker, round_: int, values: Mapping[str, float]) -> None:
        """Record a round unless the tracker has it already."""
        if round_ > self._memory[name]["round"]:
            tracker.metrics(round_, values)
            self._remember(name, round_, self._memory[name]["memory"])

    def _remember(self, name: str, round_: int, memory: Mapping[str, Any]) -> None:
        self._memory[name] = _entry(round_, memory)
        self._directory.write_json(MEMORY, self._memory)

    def hand_over(self) -> bool:
        """Pass on the missing part of a completed run to the trackers that lack some of it; whether there were any.
        The caller holds the run's lock."""
        if not self._directory.completed():
            return False
        self._memory = self._remembered()
        self._config = self._config.model_copy(update={"tracking": self._pending()})
        self.choose()
        names, result = list(self._all), self._directory.read_json("result.json")
        if names:
            self.start(result["rounds"])
            self.finish(result)
        for name in names:
            if self._memory.get(name, {}).get("ended"):
                _tell(f"tracking.{name} now has the whole run")
        return bool(names)

    def _pending(self) -> dict[str, Any]:
        """The section ``tracking`` without the trackers that have the result of the run, and without those that are
        ``auto`` and have not begun it."""
        ended = {name: known["ended"] for name, known in self._memory.items()}
        return {name: keys for name, keys in self._config.tracking.items() if not ended.get(name, keys == AUTO)}

    def finish(self, result: Mapping[str, Any]) -> None:
        """Pass the result on to the trackers that have begun, and close all of them."""
        for name, tracker in list(self._all.items()):
            if name in self._memory:
                self._try(name, tracker.finish, result)
        for name, tracker in list(self._all.items()):
            self._try(name, self._end, name, tracker, result["status"] == "completed")
        self._all = {}

    def _end(self, name: str, tracker: Tracker, completed: bool) -> None:
        tracker.close()
        if completed and name in self._memory:
            self._memory[name]["ended"] = True
            self._directory.write_json(MEMORY, self._memory)

    def _try(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action``; if it fails in any way, the run continues without this tracker."""
        try:
            action(*arguments)
        except Exception as error:
            _tell(f"tracking.{name} failed and is left out from here on: {describe_error(error)}")
            try:
                self._all.pop(name).close()
            except Exception:  # its failure has been printed
                return


def _entry(round_: Any, memory: Mapping[str, Any], ended: bool = False) -> dict[str, Any]:
    """The entry of a tracker in ``tracking.json``."""
    return {"round": int(round_), "memory": dict(memory), "ended": ended}


def _by_round(lines: Iterable[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    trained = (line for line in lines if line.get("split") != "test")
    ordered = sorted(trained, key=lambda line: line["round"])
    return {round_: list(group) for round_, group in itertools.groupby(ordered, key=lambda line: line["round"])}


def _tell(text: str) -> None:
    Console().print(one_line(text), highlight=False, soft_wrap=True, markup=False)
