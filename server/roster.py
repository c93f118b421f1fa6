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
from server.exchange import Deadline, Exchange
from server.validity import read_description
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import Order, SiteInfo
from strategies.wire import WireMeter

POLL_SECONDS = 0.2
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
class DeployedRoster:
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

    def gather(self, round_: int) -> dict[str, int]:
        """Wait at most ``sites.wait`` seconds until ``sites.min`` sites are there, and take in all that are."""
        least = self.config.sites.min or self.config.sites.count
        deadline, before = time.monotonic() + self.config.sites.wait, dict(self._nodes)
        waited = False
        while True:
            news = self._look(round_)
            if len(self._nodes) >= least and not self._just_asked():
                break
            if time.monotonic() > deadline:
                if len(self._nodes) >= least:
                    break
                raise RunError(self._too_few(round_, least))
            if len(self._nodes) < least and not waited:
                waited = True
                self.tell(
                    f"round {round_}: waiting at most {self.config.sites.wait:g} s for {least} sites (sites.wait)"
                )
            time.sleep(0 if news else POLL_SECONDS)
        self._tell_changes(before, round_)
        self.spec = self.infos()[min(self._nodes)].spec_hash
        return dict(self._nodes)

    def infos(self) -> dict[str, SiteInfo]:
        """What the sites that ``gather`` found said of themselves, in site order."""
        return {name: self._met[node] for name, node in sorted(self._nodes.items())}

    def doubt(self, names: Iterable[str]) -> None:
        """Ask these sites again who they are, before they take part again: they failed, or say they have changed."""
        for name in names:
            self._met.pop(self._nodes.get(name, -1), None)

    # --- one look -------------------------------------------------------------------------------------------------

    def _look(self, round_: int) -> bool:
        """Bring ``_nodes`` up to date with the nodes that are connected now; whether some node has answered."""
        connected = set(self.grid.get_node_ids())
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
        self._nodes, refused = choose(self._met, self._nodes, code_hash(), self.spec)
        for node, reason in refused.items():
            self._once(node, reason)
        return bool(news)

    def _forget_all_but(self, connected: set[int]) -> None:
        for known in (self._met, self._doubts, self._told):
            for node in set(known) - connected:
                del known[node]

    def _ask(self, nodes: list[int], round_: int) -> Exchange:
        asked = []
        for node in nodes:
            content = messages.write_order(Order(_label(node), self.config_json, round_, self.run))
            asked.append(Message(content, dst_node_id=node, message_type=messages.DESCRIBE_TYPE))
        return Exchange(self.grid, asked, Deadline(self.config.sites.timeout), self.meter)

    def _waiting(self) -> set[int]:
        return {_node(label) for exchange in self._asked for label in exchange.waiting}

    def _just_asked(self) -> bool:
        now = time.monotonic()
        return any(exchange.waiting and now - exchange.began < GRACE_SECONDS for exchange in self._asked)

    def _take_in(self) -> None:
        """Read what has come; a node that failed or stayed silent is asked again later."""
        for exchange in self._asked:
            replies = exchange.close() if exchange.late else exchange.replies
            for label, reply in sorted(replies.messages.items()):
                self._meet(_node(label), read_description(reply))
            for label, reason in sorted(replies.failures.items()):
                self._meet(_node(label), reason)
            replies.messages.clear()
            replies.failures.clear()
        self._asked = [exchange for exchange in self._asked if exchange.waiting]

    def _meet(self, node: int, found: SiteInfo | str) -> None:
        if isinstance(found, str):
            pause = self._doubts[node].pause if node in self._doubts else AGAIN_SECONDS
            again = min(2 * pause, LONGEST_AGAIN_SECONDS)
            self._doubts[node] = _Doubt(time.monotonic() + pause, again)
            self._once(node, f"{_label(node)} is connected and cannot take part: {found}")
            return
        self._met[node] = found
        self._doubts.pop(node, None)
        self._told.pop(node, None)

    # --- words ----------------------------------------------------------------------------------------------------

    def _once(self, node: int, reason: str) -> None:
        if self._told.get(node) != reason:
            self._told[node] = reason
            self.tell(reason)

    def _tell_changes(self, before: Mapping[str, int], round_: int) -> None:
        if not before and round_ == 0:
            self.tell("sites: " + ", ".join(f"{name} ({_label(node)})" for name, node in sorted(self._nodes.items())))
            return
        silent = self._waiting()
        for name in sorted(set(self._nodes) - set(before)):
            self.tell(f"round {round_}: site {name} joined ({_label(self._nodes[name])})")
        for name in sorted(set(before) - set(self._nodes)):
            left = "is connected and does not answer" if before[name] in silent else "has left"
            self.tell(f"round {round_}: site {name} {left}; it may come back")

    def _too_few(self, round_: int, least: int) -> str:
        wait, there = self.config.sites.wait, ", ".join(sorted(self._nodes)) or "none"
        reasons = "".join(f"; {reason}" for _, reason in sorted(self._told.items()))
        silent = len(self._waiting())
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


def choose(
    met: Mapping[int, SiteInfo], now: Mapping[str, int], code: str, spec: str | None
) -> tuple[dict[str, int], dict[int, str]]:
    """Site name -> node of those that fit, and node -> reason of those that do not.

    Every site must run the code ``code`` over the data specification ``spec`` (None: the one that most have). Of
    several nodes with one name, the node that acts for the site ``now`` keeps it.
    """
    spec = spec or _most_common(info.spec_hash for info in met.values())
    accepted: dict[str, int] = {}
    refused: dict[int, str] = {}
    for node, info in sorted(met.items()):
        same = [other for other, their in met.items() if their.name == info.name]
        reason = _misfit(info, code, spec) or _namesake(node, info.name, same, now.get(info.name))
        if reason is None:
            accepted[info.name] = node
        else:
            refused[node] = reason
    return accepted, refused


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
    if len(same) == 1 or node == current:
        return None
    if current in same:
        return f"a second node calls itself site {name}; it can take part under that name when the first has gone"
    return (
        f"{len(same)} nodes call themselves site {name}; give each SuperNode a name of its own (site= in node config)"
    )
