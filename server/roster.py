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
from server.exchange import Deadline, exchange
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import Order, SiteInfo
from strategies.wire import WireMeter

POLL_SECONDS = 0.2
AGAIN_SECONDS = 10.0
"""How long a node that could not be taken in is left alone before it is asked again."""


@dataclass
class DeployedRoster:
    """Sites that bring their own data: each node is asked once for its name. A site may join late, leave, or come back
    as another node; what it says must fit the run.

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
    _later: dict[int, float] = field(default_factory=dict)
    _told: dict[int, str] = field(default_factory=dict)
    _nodes: dict[str, int] = field(default_factory=dict)

    def gather(self, round_: int) -> dict[str, int]:
        """Wait at most ``sites.wait`` seconds until ``sites.min`` sites are there, and take in all that are."""
        least = self.config.sites.min or self.config.sites.count
        deadline = time.monotonic() + self.config.sites.wait
        while True:
            self._look(round_)
            if len(self._nodes) >= least:
                self.spec = self.infos()[min(self._nodes)].spec_hash
                return dict(self._nodes)
            if time.monotonic() > deadline:
                raise RunError(self._too_few(round_, least))
            time.sleep(POLL_SECONDS)

    def infos(self) -> dict[str, SiteInfo]:
        """What the sites that ``gather`` found said of themselves, in site order."""
        return {name: self._met[node] for name, node in sorted(self._nodes.items())}

    def _look(self, round_: int) -> None:
        """Bring ``_nodes`` up to date with the nodes that are connected now."""
        connected = set(self.grid.get_node_ids())
        self._met = {node: info for node, info in self._met.items() if node in connected}
        now = time.monotonic()
        fresh = [node for node in sorted(connected - set(self._met)) if self._later.get(node, now) <= now]
        if fresh:
            self._ask(fresh, round_)
        before = self._nodes
        self._nodes, refused = choose(self._met, before, code_hash(), self.spec)
        for node, reason in refused.items():
            self._once(node, reason)
        self._tell_changes(before, round_)

    def _ask(self, nodes: list[int], round_: int) -> None:
        asked = []
        for node in nodes:
            content = messages.write_order(Order(f"node {node}", self.config_json, round_, self.run))
            asked.append(Message(content, dst_node_id=node, message_type=messages.DESCRIBE_TYPE))
        deadline = Deadline(min(self.config.sites.timeout, self.config.sites.wait))
        replies = exchange(self.grid, asked, deadline, self.meter)
        for node in nodes:
            if f"node {node}" in replies.messages:
                self._met[node] = messages.read_site(replies.messages[f"node {node}"].content)
            else:
                self._later[node] = time.monotonic() + AGAIN_SECONDS
                self._once(node, f"a node is connected and cannot take part: {replies.failures[f'node {node}']}")

    def _once(self, node: int, reason: str) -> None:
        if self._told.get(node) != reason:
            self._told[node] = reason
            self.tell(reason)

    def _tell_changes(self, before: Mapping[str, int], round_: int) -> None:
        if not before and round_ == 0:
            return  # the run's first line names the sites
        for name in sorted(set(self._nodes) - set(before)):
            self.tell(f"site {name} joined before round {round_}")
        for name in sorted(set(before) - set(self._nodes)):
            self.tell(f"site {name} has left; it may come back")

    def _too_few(self, round_: int, least: int) -> str:
        wait, there = self.config.sites.wait, ", ".join(sorted(self._nodes)) or "none"
        reasons = "".join(f"; {reason}" for node, reason in sorted(self._told.items()))
        return (
            f"round {round_}: {len(self._nodes)} of at least {least} sites connected within {wait:g} s "
            f"(sites.min, sites.wait): {there}{reasons}; start the other SuperNodes, or lower sites.min, and resume"
        )


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
