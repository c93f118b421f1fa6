"""Report the numbers of a run to its trackers; a tracker that fails stops neither the run nor the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
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
    """Reports the lines that are appended to a run directory to the trackers, round by round.

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
            _print(text)

    def start(self, last: int) -> None:
        """Start the trackers, once the manifest is written and the files end with the round ``last``."""
        self._memory = self._read_memory()
        for name, tracker in list(self._all.items()):
            self._try(name, self._begin, name, tracker, last)
        self._directory.listen(self._report_lines)

    def _read_memory(self) -> dict[str, Any]:
        """Read the stored state of the trackers. If it cannot be read, they start again, and the run continues."""
        try:
            found = self._directory.read_json(MEMORY).items()
            return {name: _entry(known["round"], known["memory"], known.get("ended") is True) for name, known in found}
        except Exception as error:  # the file may have been edited
            _print(f"{MEMORY} cannot be read, so trackers start again: {describe_error(error)}")
            return {}

    def _begin(self, name: str, tracker: Tracker, last: int) -> None:
        """Start one tracker and report to it the rounds in the files that it lacks."""
        known = self._memory.get(name, _entry(0, {}))
        manifest = self._directory.read_json("manifest.json")
        tags = {key: str(manifest[key]) for key in TAGS if manifest.get(key) is not None}
        config = self._config.model_dump(mode="json", exclude={"tracking"})
        trial = self._directory.read_json(TRIAL)  # empty unless the run is a trial of a sweep
        title, labels = trial.get("name", self._config.name), trial.get("labels", {})
        run = TrackedRun(self._directory.path, title, config, tags, last, known["memory"], labels)
        memory = tracker.start(run)
        recorded = known["round"] if memory == known["memory"] else 0  # otherwise it started again, without any rounds
        self._remember(name, min(recorded, last) if tracker.takes_back else recorded, memory)
        metrics: dict[int, list[dict[str, Any]]] = defaultdict(list)
        sites: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for lines, file in ((metrics, "metrics.jsonl"), (sites, "sites.jsonl")):
            for line in self._directory.read_lines(file):
                if line.get("split") != "test":
                    lines[line["round"]].append(line)
        for round_ in sorted(metrics):
            if round_ <= last:
                self._report(name, tracker, round_, numbers_of_round(metrics[round_], sites[round_]))

    def _report_lines(self, file: str, lines: list[Mapping[str, Any]]) -> None:
        """Report lines that the run has just written; those of the sites come before those of the round."""
        if file == "sites.jsonl":
            self._sites += lines
        if file != "metrics.jsonl" or lines[0]["split"] == "test":
            return
        values, self._sites = numbers_of_round(lines, self._sites), []
        round_, trained = lines[0]["round"], lines[0]["split"] == "train"
        for name, tracker in list(self._all.items()):
            if trained:
                self._try(name, self._report, name, tracker, round_, values)
            else:  # a round that was trained before is scored only now
                self._try(name, tracker.metrics, round_, values)

    def _report(self, name: str, tracker: Tracker, round_: int, values: Mapping[str, float]) -> None:
        """Report a round unless the tracker already has it."""
        if round_ > self._memory[name]["round"]:
            tracker.metrics(round_, values)
            self._remember(name, round_, self._memory[name]["memory"])

    def _remember(self, name: str, round_: int, memory: Mapping[str, Any]) -> None:
        self._memory[name] = _entry(round_, memory)
        self._directory.write_json(MEMORY, self._memory)

    def catch_up(self) -> bool:
        """Report the rest of a completed run to the trackers that lack some of it, and return whether there were any.

        The caller holds the run's lock.
        """
        if not self._directory.completed():
            return False
        self._memory = self._read_memory()
        # Trackers that have the result are left out, and so are those that are ``auto`` and never started.
        ended = {name: known["ended"] for name, known in self._memory.items()}
        pending = {name: keys for name, keys in self._config.tracking.items() if not ended.get(name, keys == AUTO)}
        self._config = self._config.model_copy(update={"tracking": pending})
        self.choose()
        names, result = list(self._all), self._directory.read_json("result.json")
        if names:
            self.start(result["rounds"])
            self.finish(result)
        for name in names:
            if self._memory.get(name, {}).get("ended"):
                _print(f"tracking.{name} now has the whole run")
        return bool(names)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Report the result to the trackers that have started, and close all trackers."""
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
            _print(f"tracking.{name} failed and is left out from here on: {describe_error(error)}")
            try:
                self._all.pop(name).close()
            except Exception:  # its failure has been printed
                return


def _entry(round_: Any, memory: Mapping[str, Any], ended: bool = False) -> dict[str, Any]:
    """The entry of a tracker in ``tracking.json``."""
    return {"round": int(round_), "memory": dict(memory), "ended": ended}


def _print(text: str) -> None:
    Console().print(one_line(text), highlight=False, soft_wrap=True, markup=False)
