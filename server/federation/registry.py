"""The sites of a deployment that are connected and may take part, updated before every round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from fedrecon_core.errors import RunError
from server.federation.messaging import Channel, Deadline, Exchange, ReplyError
from server.federation.reply_validation import read_description
from strategies import messages
from strategies.code_hash import code_hash
from strategies.messages import SiteInfo, TrainInstruction

POLL_SECONDS = 0.2
QUIET_SECONDS = 10.0
"""How long to wait for sites before the user is informed: their answers take a few seconds each."""
GRACE_SECONDS = 15.0
"""How long a round waits for nodes that were just asked for their description, if there are enough sites without
them."""
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 10.0, 600.0
"""The pause before a refused node is asked again. It doubles each time."""


@dataclass
class SiteRecord:
    """A connected node, and its site."""

    node: int
    info: SiteInfo | None = None
    """Its description; None if it was not received yet, or is stale."""
    name: str | None = None
    """The site for which it was accepted. It keeps the name while its description is stale, so that no other node can
    get it."""
    active: bool = False
    """Whether it currently takes part."""
    retry_at: float = 0.0
    """The time (``time.monotonic``) before which it is not asked for its description."""
    pause: float | None = None
    """The pause after the next refusal; None if it was not refused since it last took part."""
    reason: str | None = None
    """The reason why it cannot take part that was last shown to the user."""

    @property
    def label(self) -> str:
        """The name in messages and notes until the site's own name is known."""
        return f"node {self.node}"

    def refuse(self) -> None:
        """Do not ask the node again for some time."""
        self.info = None
        pause = AGAIN_SECONDS if self.pause is None else self.pause
        self.retry_at, self.pause = time.monotonic() + pause, min(2 * pause, LONGEST_AGAIN_SECONDS)

    def accept(self, name: str) -> None:
        """Accept the node as the site ``name``."""
        self.active, self.name, self.retry_at, self.pause, self.reason = True, name, 0.0, None, None


class SiteRegistry:
    """Sites with their own data. Each node is asked for its description once, and again after a failure. A site may
    join late, leave, or come back as another node; its description must fit the run. No round waits for a node that
    does not answer."""

    def __init__(self, channel: Channel, config_json: str, run: str, spec: str | None = None) -> None:
        """``config_json`` and ``run`` are part of every instruction. ``spec``: the hash of the data specification that
        all sites must have; None: the one that most sites have when the run begins."""
        self.spec = spec
        self._channel, self._config_json, self._run = channel, config_json, run
        self._records: dict[int, SiteRecord] = {}
        """Node -> record, of the connected nodes."""
        self._pending: list[Exchange] = []
        """Requests for descriptions that are not all answered yet."""

    def refresh(self, round_: int) -> dict[str, int]:
        """Wait up to ``sites.wait`` seconds for ``sites.min`` sites, and return site -> node of all that can take part.

        A site that took part before and has not answered yet gets ``sites.timeout`` seconds, since it may still work on
        an older message. Raises ``RunError`` if there are too few sites.
        """
        sites = self._channel.config.sites
        least, began, before, noted = sites.min or sites.count, time.monotonic(), self._nodes(), False
        while True:
            news, late = self._poll(round_), time.monotonic() > began + sites.wait
            enough, waiting = len(self._nodes()) >= least, self._waiting()
            recent = time.monotonic() - GRACE_SECONDS
            just_asked = any(exchange.waiting and exchange.began > recent for exchange in self._pending)
            if enough and (late or not just_asked):
                break
            if late and not enough and not any(r.name and r.node in waiting for r in self._records.values()):
                reasons = "".join(f"; {r.reason}" for _, r in sorted(self._records.items()) if r.reason is not None)
                silent = len(self._waiting() & set(self._records))
                reasons += f"; {silent} more connected (no reply yet)" if silent else ""
                raise RunError(
                    f"round {round_}: {len(self._nodes())} of at least {least} sites connected within {sites.wait:g} s "
                    f"(sites.min, sites.wait): {', '.join(sorted(self._nodes())) or 'none'}{reasons}; start the other "
                    "SuperNodes, or lower sites.min, and resume"
                )
            if not enough and not noted and time.monotonic() - began > QUIET_SECONDS:
                noted = True
                self._channel.note(
                    f"round {round_}: {len(self._nodes())} of at least {least} sites; waiting at most {sites.wait:g} s "
                    "(sites.wait)"
                )
            time.sleep(0 if news else POLL_SECONDS)
        self._note_changes(before, round_)
        self.spec = self.infos()[min(self._nodes())].spec_hash
        return self._nodes()

    def infos(self) -> dict[str, SiteInfo]:
        """Site -> description of the sites that ``refresh`` found, in site order."""
        found = {r.name: r.info for r in self._records.values() if r.active and r.name and r.info}
        return dict(sorted(found.items()))

    def mark_stale(self, names: Iterable[str]) -> None:
        """Ask these sites for their description before they take part again, since they failed or have changed."""
        stale = set(names)
        for record in self._records.values():
            if record.active and record.name in stale:
                record.info = None

    def _nodes(self) -> dict[str, int]:
        return {record.name: record.node for record in self._records.values() if record.active and record.name}

    def _waiting(self) -> set[int]:
        """The nodes that were asked and have not answered yet, connected or not."""
        return {int(label.removeprefix("node ")) for exchange in self._pending for label in exchange.waiting}

    # --- one poll -------------------------------------------------------------------------------------------------

    def _poll(self, round_: int) -> bool:
        """Update the records of the connected nodes. Returns whether a node has answered."""
        connected = set(self._channel.grid.get_node_ids())
        self._records = {node: self._records.get(node) or SiteRecord(node) for node in sorted(connected)}
        now, waiting = time.monotonic(), self._waiting()
        fresh = [r for r in self._records.values() if r.info is None and r.node not in waiting and r.retry_at <= now]
        if fresh:
            asked = []
            for record in fresh:
                instruction = TrainInstruction(record.label, self._config_json, round_, self._run)
                content = messages.write_instruction(instruction)
                asked.append(Message(content, dst_node_id=record.node, message_type=messages.DESCRIBE_TYPE))
            deadline = Deadline(self._channel.config.sites.timeout)
            self._pending.append(Exchange(self._channel.grid, asked, deadline, self._channel.meter))
        answered = [label for exchange in self._pending for label in exchange.collect()]
        self._update()
        return bool(answered)

    def _update(self) -> None:
        """Read the descriptions that have arrived, and accept the nodes that fit the run. A node that failed or did not
        answer is asked again later, and so is one that does not fit, since it may be corrected."""
        by_label = {record.label: record for record in self._records.values()}
        reasons: list[tuple[SiteRecord, str]] = []
        for exchange in self._pending:
            replies = exchange.close() if exchange.late else exchange.replies
            failures = dict(replies.failures)
            for label, content in replies.received.items():
                try:
                    info = read_description(content)
                except ReplyError as error:
                    failures[label] = str(error)
                    continue
                if label in by_label:
                    by_label[label].info = info
            for label, reason in sorted(failures.items()):
                if label in by_label:
                    by_label[label].refuse()
                    reasons.append((by_label[label], f"{label} is connected and cannot take part: {reason}"))
            replies.received.clear()
            replies.failures.clear()
        self._pending = [exchange for exchange in self._pending if exchange.waiting]
        met = {record.node: record.info for record in self._records.values() if record.info is not None}
        names = {record.name: record.node for record in self._records.values() if record.name is not None}
        choice = choose(met, names, code_hash(self._channel.config.plugins), self.spec)
        nodes = {node: name for name, node in choice.accepted.items()}
        for node, record in self._records.items():
            record.active = False
            if node in nodes:
                record.accept(nodes[node])
        reasons += [(self._records[node], reason) for node, reason in {**choice.namesakes, **choice.misfits}.items()]
        for node in choice.misfits:
            self._records[node].refuse()
        for record, reason in reasons:
            if record.reason != reason:
                record.reason = reason
                self._channel.note(reason)

    def _note_changes(self, before: Mapping[str, int], round_: int) -> None:
        now, waiting = self._nodes(), self._waiting()
        if not before and round_ == 0:
            self._channel.note("sites: " + ", ".join(f"{name} (node {node})" for name, node in sorted(now.items())))
            return
        for name in sorted(set(now) - set(before)):
            self._channel.note(f"round {round_}: site {name} joined (node {now[name]})")
        for name in sorted(set(before) - set(now)):
            if before[name] not in self._records:
                absence = "has left; it may come back"
            elif before[name] in waiting:
                absence = "is connected and does not answer; it takes part again when it does"
            else:
                absence = f"(node {before[name]}) is left out for now"
            self._channel.note(f"round {round_}: site {name} {absence}")


@dataclass(frozen=True)
class Choice:
    """``accepted``: site -> node. ``misfits``: node -> the reason why it does not fit (other code or data).
    ``namesakes``: node -> the reason why it cannot have its name."""

    accepted: dict[str, int] = field(default_factory=dict)
    misfits: dict[int, str] = field(default_factory=dict)
    namesakes: dict[int, str] = field(default_factory=dict)


def choose(met: Mapping[int, SiteInfo], names: Mapping[str, int], code: str, spec: str | None) -> Choice:
    """Decide which of the nodes ``met`` (node -> description) take part as which sites.

    Every site must have the code hash ``code`` and the hash ``spec`` of the data specification (None: the one that most
    have; if several are equally common, the first in alphabetical order). If several nodes have the same name, the
    connected node that has it in ``names`` keeps it.
    """
    if not spec:
        counts = Counter(info.spec_hash for info in met.values())
        spec = min(counts, key=lambda found: (-counts[found], found), default="")
    choice = Choice()
    for node, info in sorted(met.items()):
        site, current = f"site {info.name}", names.get(info.name)
        same = sum(other.name == info.name for other in met.values())
        if info.code_hash != code:
            choice.misfits[node] = f"{site} runs other code: expected code hash {code}, found {info.code_hash}"
        elif info.own is None:
            choice.misfits[node] = (
                f"{site} has no data of its own; give its SuperNode site=, data= and state= as node config"
            )
        elif info.spec_hash != spec:
            choice.misfits[node] = f"{site} has another data set: expected spec hash {spec}, found {info.spec_hash}"
        elif current is not None and node != current:
            choice.namesakes[node] = (
                f"a second node calls itself {site}; it can take part under that name when the first has left"
            )
        elif current is None and same > 1:
            choice.namesakes[node] = (
                f"{same} nodes call themselves {site}; give each SuperNode a name of its own (site= in node config)"
            )
        else:
            choice.accepted[info.name] = node
    return choice
