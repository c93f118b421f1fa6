"""Who takes part in a deployment: looked up before the first round, and again before every other."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from fedrecon_core.errors import RunError
from server.federation.messaging import Deadline, Exchange
from server.federation.reply_validation import read_description
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import SiteInfo, TrainInstruction
from strategies.wire import WireMeter

POLL_SECONDS = 0.2
QUIET_SECONDS = 10.0
"""How long a wait for sites is not worth a word: their answers take a few seconds each."""
GRACE_SECONDS = 15.0
"""How long a round waits for nodes that were just asked who they are, where enough sites are there without them."""
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 10.0, 600.0
"""How long a node that could not be taken in is left alone before it is asked again; twice as long each time."""


@dataclass
class _Doubt:
    """A node that could not be taken in: when it is asked again, and how long it is left alone after the next try."""

    until: float
    pause: float


@dataclass
class SiteRegistry:
    """Sites that bring their own data: each node is asked for its name, once, and again after a fault. A site may join
    late, leave, or come back as another node; what it says must fit the run. A node that stays silent keeps nobody
    waiting but itself.

    ``spec`` is the data specification (its hash) that all must share; without it, the one that most sites have when the
    run begins. ``tell`` passes on what a person should know.
    """

    grid: Grid
    config: RunConfig
    config_json: str
    run: str
    meter: WireMeter
    tell: Callable[[str], None]
    spec: str | None = None
    _met: dict[int, SiteInfo] = field(default_factory=dict)
    _asked: list[Exchange] = field(default_factory=list)
    _doubts: dict[int, _Doubt] = field(default_factory=dict)
    _told: dict[int, str] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)
    """Site name -> the connected node that has it, though it may be in mark_stale just now: no other gets the name."""
    _connected: set[int] = field(default_factory=set)

    def refresh(self, round_: int) -> dict[str, int]:
        """Wait at most ``sites.wait`` seconds until ``sites.min`` sites are there, and take in all that are. A site
        that took part before and owes an answer has ``sites.timeout`` for it: it may be at work on an older message."""
        least = self.config.sites.min or self.config.sites.count
        began, before, waited = time.monotonic(), dict(self._nodes), False
        deadline = began + self.config.sites.wait
        while True:
            news, enough, late = self._look(round_), len(self._nodes) >= least, time.monotonic() > deadline
            if enough and (late or not self._just_asked()):
                break
            if late and not enough and not self._owed():
                raise RunError(self._too_few(round_, least))
            if not enough and not waited and time.monotonic() - began > QUIET_SECONDS:
                waited = True
                there = f"{len(self._nodes)} of at least {least} sites"
                self.tell(f"round {round_}: {there}; waiting at most {self.config.sites.wait:g} s (sites.wait)")
            time.sleep(0 if news else POLL_SECONDS)
        self._tell_changes(before, round_)
        self.spec = self.infos()[min(self._nodes)].spec_hash
        return dict(self._nodes)

    def infos(self) -> dict[str, SiteInfo]:
        """What the sites that ``refresh`` found said of themselves, in site order."""
        return {name: self._met[node] for name, node in sorted(self._nodes.items())}

    def mark_stale(self, names: Iterable[str]) -> None:
        """Ask these sites again who they are, before they take part again: they failed, or say they have changed."""
        for name in names:
            self._met.pop(self._nodes.get(name, -1), None)

    # --- one look -------------------------------------------------------------------------------------------------

    def _look(self, round_: int) -> bool:
        """Bring ``_nodes`` up to date with the nodes that are connected now; whether some node has answered."""
        connected = self._connected = set(self.grid.get_node_ids())
        self._forget_all_but(connected)
        now, asked = time.monotonic(), self._waiting()
        fresh = [
            node
            for node in sorted(connected - set(self._met) - asked)
            if node not in self._doubts or self._doubts[node].until <= now
        ]
        if fresh:
            self._asked.append(self._ask(fresh, round_))
        news = [node for exchange in self._asked for node in map(_node, exchange.collect())]
        self._take_in()
        choice = choose(self._met, self._names, code_hash(), self.spec)
        self._nodes = choice.accepted
        self._names.update(choice.accepted)
        for node in choice.accepted.values():
            self._doubts.pop(node, None)
            self._told.pop(node, None)
        for node, reason in {**choice.namesakes, **choice.misfits}.items():
            self._once(node, reason)
        for node in choice.misfits:  # mended, it may fit later
            del self._met[node]
            self._leave_alone(node)
        return bool(news)

    def _forget_all_but(self, connected: set[int]) -> None:
        for known in (self._met, self._doubts, self._told):
            for node in set(known) - connected:
                del known[node]
        self._names = {name: node for name, node in self._names.items() if node in connected}

    def _ask(self, nodes: list[int], round_: int) -> Exchange:
        asked = []
        for node in nodes:
            content = messages.write_instruction(TrainInstruction(_label(node), self.config_json, round_, self.run))
            asked.append(Message(content, dst_node_id=node, message_type=messages.DESCRIBE_TYPE))
        return Exchange(self.grid, asked, Deadline(self.config.sites.timeout), self.meter)

    def _waiting(self) -> set[int]:
        return {_node(label) for exchange in self._asked for label in exchange.waiting}

    def _owed(self) -> bool:
        return bool(set(self._names.values()) & self._waiting())

    def _just_asked(self) -> bool:
        now = time.monotonic()
        return any(exchange.waiting and now - exchange.began < GRACE_SECONDS for exchange in self._asked)

    def _take_in(self) -> None:
        """Read what has come; a node that failed or stayed silent is asked again later."""
        for exchange in self._asked:
            replies = exchange.close() if exchange.late else exchange.replies
            read = {label: read_description(reply) for label, reply in replies.messages.items()}
            for label, found in sorted({**read, **replies.failures}.items()):
                if _node(label) in self._connected:
                    self._meet(_node(label), found)
            replies.messages.clear()
            replies.failures.clear()
        self._asked = [exchange for exchange in self._asked if exchange.waiting]

    def _meet(self, node: int, found: SiteInfo | str) -> None:
        if isinstance(found, str):
            self._leave_alone(node)
            self._once(node, f"{_label(node)} is connected and cannot take part: {found}")
            return
        self._met[node] = found

    def _leave_alone(self, node: int) -> None:
        pause = self._doubts[node].pause if node in self._doubts else AGAIN_SECONDS
        self._doubts[node] = _Doubt(time.monotonic() + pause, min(2 * pause, LONGEST_AGAIN_SECONDS))

    # --- words ----------------------------------------------------------------------------------------------------

    def _once(self, node: int, reason: str) -> None:
        if self._told.get(node) != reason:
            self._told[node] = reason
            self.tell(reason)

    def _tell_changes(self, before: Mapping[str, int], round_: int) -> None:
        if not before and round_ == 0:
            self.tell("sites: " + ", ".join(f"{name} ({_label(node)})" for name, node in sorted(self._nodes.items())))
            return
        for name in sorted(set(self._nodes) - set(before)):
            self.tell(f"round {round_}: site {name} joined ({_label(self._nodes[name])})")
        for name in sorted(set(before) - set(self._nodes)):
            self.tell(f"round {round_}: site {name} {self._absence(before[name])}")

    def _absence(self, node: int) -> str:
        if node not in self._connected:
            return "has left; it may come back"
        if node in self._waiting():
            return "is connected and does not answer; it takes part again when it does"
        return f"({_label(node)}) takes no part for now"

    def _too_few(self, round_: int, least: int) -> str:
        wait, there = self.config.sites.wait, ", ".join(sorted(self._nodes)) or "none"
        reasons = "".join(f"; {reason}" for _, reason in sorted(self._told.items()))
        silent = len(self._waiting() & self._connected)
        reasons += f"; {silent} more connected and gave no answer yet" if silent else ""
        return (
            f"round {round_}: {len(self._nodes)} of at least {least} sites connected within {wait:g} s "
            f"(sites.min, sites.wait): {there}{reasons}; start the other SuperNodes, or lower sites.min, and resume"
        )


def _label(node: int) -> str:
    """What stands for a node's name until it has told it."""
    return f"node {node}"


def _node(label: str) -> int:
    return int(label.removeprefix("node "))


@dataclass(frozen=True)
class Choice:
    """Site name -> node of those that fit; node -> reason of those that do not: other code or data, or a taken name."""

    accepted: dict[str, int] = field(default_factory=dict)
    misfits: dict[int, str] = field(default_factory=dict)
    namesakes: dict[int, str] = field(default_factory=dict)


def choose(met: Mapping[int, SiteInfo], names: Mapping[str, int], code: str, spec: str | None) -> Choice:
    """Which of the nodes that were ``met`` may act for which sites.

    Every site must run the code ``code`` over the data specification ``spec`` (None: the one that most have). Of
    several nodes with one name, the connected node that has it in ``names`` keeps it.
    """
    spec = spec or _most_common(info.spec_hash for info in met.values())
    choice = Choice()
    for node, info in sorted(met.items()):
        same = [other for other, their in met.items() if their.name == info.name]
        if (reason := _misfit(info, code, spec)) is not None:
            choice.misfits[node] = reason
        elif (reason := _namesake(node, info.name, same, names.get(info.name))) is not None:
            choice.namesakes[node] = reason
        else:
            choice.accepted[info.name] = node
    return choice


def _most_common(hashes: Iterable[str]) -> str:
    """Of equally common ones the first in alphabetical order, whatever the order in which the sites came."""
    counts = Counter(hashes)
    return min(counts, key=lambda found: (-counts[found], found), default="")


def _misfit(info: SiteInfo, code: str, spec: str) -> str | None:
    if info.code_hash != code:
        return f"site {info.name} runs other code: expected code hash {code}, found {info.code_hash}"
    if info.own is None:
        return f"site {info.name} brings no data of its own; give its SuperNode site=, data= and state= as node config"
    if info.spec_hash != spec:
        return f"site {info.name} has another data set: expected spec hash {spec}, found {info.spec_hash}"
    return None


def _namesake(node: int, name: str, same: list[int], current: int | None) -> str | None:
    if node == current or (current is None and len(same) == 1):
        return None
    if current is not None:
        return f"a second node calls itself site {name}; it can take part under that name when the first has gone"
    return (
        f"{len(same)} nodes call themselves site {name}; give each SuperNode a name of its own (site= in node config)"
    )
