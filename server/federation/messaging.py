"""Send messages to sites and collect the replies until all are there or the deadline has passed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedrecon_core.errors import ConfigError, DataError, FedReconError, RunError, UsageError
from strategies.messages import addressee
from strategies.wire import WireMeter

POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
"""Every look costs the SuperLink a few queries of its database: the longer the wait, the rarer they are."""
TOO_LARGE = "the SuperLink took none of the messages: they are too large for it; a smaller model, or fewer groups"
REFUSED = "the SuperLink took no message for its node; it does not know it any more"
_RAISED = re.compile(r"<class '(?:\w+\.)*(?P<flowers>\w+)'>:<'(?P<inner>.*)'>$|(?P<ours>\w+): (?P<outer>.*)$")
"""What an exception at a site becomes: in Flower's SuperNode, and in our own engines."""
_SPEAKING = {cls.__name__ for cls in (FedReconError, UsageError, ConfigError, DataError, RunError)}
GRACE_SECONDS = 60.0
"""How much longer than its deadline a message lives, for the clocks of two machines may differ."""


@dataclass
class Replies:
    """What came back, by site name; ``failures`` says why a site has no reply."""

    messages: dict[str, Message] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def reasons(self) -> str:
        """Why sites have no reply; sites with the same reason share it."""
        shared: dict[str, list[str]] = {}
        for name, reason in sorted(self.failures.items()):
            shared.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in shared.items())

    def reject(self, name: str, fault: str) -> None:
        """Turn the reply of the site ``name`` into a failure."""
        del self.messages[name]
        self.failures[name] = f"reply rejected: {fault}"

    @property
    def asked(self) -> int:
        """How many sites were asked."""
        return len(self.messages) + len(self.failures)

    def answered(self) -> str:
        """How many of the asked sites answered, in words."""
        return f"{len(self.messages)} of {self.asked} sites answered"


@dataclass(frozen=True)
class Deadline:
    """``timeout`` seconds per site. Where ``lanes`` sites run at a time (a simulation), the others wait for their turn,
    and waiting makes no site late; None: all sites run at once."""

    timeout: float
    lanes: int | None = None

    def seconds(self, sites: int) -> float:
        """How long to wait for ``sites`` replies."""
        return self.timeout * (1 if self.lanes is None else math.ceil(sites / self.lanes))


def needed(quorum: float, asked: int) -> int:
    """How many of ``asked`` sites must answer; 0.07 of 100 is 7, whatever floating point says."""
    return math.ceil(quorum * asked - 1e-9)


class Exchange:
    """Messages that are on their way. ``collect`` takes in what has come, without waiting; ``close`` gives up on the
    rest.

    An error reply may come from the SuperLink rather than from the node, so a reply belongs to the site whose message
    it answers. ``meter`` weighs what is sent and received.
    """

    def __init__(self, grid: Grid, messages: Sequence[Message], deadline: Deadline, meter: WireMeter) -> None:
        """Push ``messages``. One that the SuperLink does not take, since its node is gone, has failed at once."""
        self.replies = Replies()
        self.began = time.monotonic()
        self._grid, self._meter, self._deadline = grid, meter, deadline
        self._end = self.began + deadline.seconds(len(messages))
        for message in messages:  # a site that comes back later must not work on what nobody waits for any more
            message.metadata.ttl = deadline.seconds(len(messages)) + GRACE_SECONDS
        ids = list(grid.push_messages(messages)) if messages else []
        self._waiting: dict[str, str] = {}
        for message, key in zip(messages, ids or [""] * len(messages), strict=True):
            meter.add(message.content)
            if key:
                self._waiting[key] = addressee(message)
            else:
                self.replies.failures[addressee(message)] = REFUSED if ids else TOO_LARGE

    @property
    def waiting(self) -> list[str]:
        """The sites that have not answered yet."""
        return list(self._waiting.values())

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._end

    def collect(self) -> list[str]:
        """Take in the replies that are there; the names of their sites."""
        names = []
        for reply in list(self._grid.pull_messages(list(self._waiting))) if self._waiting else []:
            name = self._waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_content():
                self._meter.add(reply.content)
            self._sort_in(name, reply)
            names.append(name)
        return names

    def close(self) -> Replies:
        """What came back; silence until now is a failure. An engine that can drops what nobody waits for any more, so
        that it never runs beside the next round."""
        forget = getattr(self._grid, "forget", None)
        if self._waiting and forget is not None:
            forget(list(self._waiting))
        for name in self._waiting.values():
            self.replies.failures[name] = f"no answer in {self._deadline.timeout:g} s"
        self._waiting.clear()
        return self.replies

    def _sort_in(self, name: str, reply: Message) -> None:
        if reply.has_error():
            self.replies.failures[name] = plain(reply.error.reason or f"error {reply.error.code}")
        else:
            self.replies.messages[name] = reply


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    deadline: Deadline,
    meter: WireMeter,
    arrived: Callable[[str], None] = lambda name: None,
) -> Replies:
    """Push ``messages`` and wait for their replies until ``deadline``; ``arrived`` is told the name of each site as its
    reply comes in."""
    sent, heard = Exchange(grid, messages, deadline, meter), time.monotonic()
    while sent.waiting and not sent.late:
        names = sent.collect()
        for name in names:
            arrived(name)
        if names:
            heard = time.monotonic()
        elif sent.waiting:
            time.sleep(pause(time.monotonic() - heard))
    return sent.close()


def plain(reason: str) -> str:
    """A site's reason in one line. An error of ours speaks for itself; of any other the class is told, too."""
    found = _RAISED.match(" ".join(reason.split()))
    if found is None:
        return " ".join(reason.split())
    name, told = found["flowers"] or found["ours"], found["inner"] or found["outer"] or ""
    return told if told and name in _SPEAKING else f"{name}: {told}"


def pause(waited: float) -> float:
    """Seconds until the next look after ``waited`` seconds without a reply: a twentieth of them, within bounds."""
    return min(max(POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS)
