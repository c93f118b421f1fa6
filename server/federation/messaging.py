"""Send messages to sites and collect their replies until all have arrived or the deadline has passed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedrecon_core.config import RunConfig
from strategies.messages import addressee, is_group, read_error

POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
"""Every poll costs the SuperLink a few database queries: the longer the wait, the rarer they are."""
TOO_LARGE = "the SuperLink took none of the messages: they are too large for it; a smaller model, or fewer groups"
REFUSED = "the SuperLink took no message for its node; it does not know it any more"
GRACE_SECONDS = 60.0
"""How much longer than its deadline a message lives, since the clocks of two machines may differ."""

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every tensor of a group."""
Reply = TypeVar("Reply")
Decoded = TypeVar("Decoded")


class ReplyError(Exception):
    """A reply that cannot be used; the text says why."""


@dataclass
class Replies(Generic[Reply]):
    """The outcome of messages to several sites: ``received`` maps the sites that answered to their replies,
    ``failures`` the others to the reason."""

    received: dict[str, Reply] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def decode(self, read: Callable[[str, Reply], Decoded]) -> Replies[Decoded]:
        """The replies as ``read(site, reply)`` returns them, in site order; one on which it raises ``ReplyError`` is
        rejected. The raw replies are released as they are read, since they may be large."""
        decoded: Replies[Decoded] = Replies(failures=self.failures)
        for name in sorted(self.received):
            try:
                decoded.received[name] = read(name, self.received.pop(name))
            except ReplyError as error:
                self.failures[name] = f"reply rejected: {error}"
        return decoded

    def reject(self, name: str, fault: str) -> None:
        """Turn the reply of the site ``name`` into a failure."""
        del self.received[name]
        self.failures[name] = f"reply rejected: {fault}"

    def reasons(self) -> str:
        """The reasons of all failures in one line; sites with the same reason share it."""
        shared: dict[str, list[str]] = {}
        for name, reason in sorted(self.failures.items()):
            shared.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in shared.items())

    @property
    def asked(self) -> int:
        """The number of sites that were sent a message."""
        return len(self.received) + len(self.failures)

    def answered(self) -> str:
        """How many of the sites answered, as text."""
        return f"{len(self.received)} of {self.asked} sites answered"


class WireMeter:
    """Adds up the sizes of messages as they are serialized, framing included. A group's size depends only on the names,
    shapes and types of its tensors, so that each group is serialized once per run and not once per message."""

    def __init__(self, total: int = 0) -> None:
        """``total``: the bytes of a resumed run so far."""
        self.total = total
        self._groups: dict[tuple[str, Shapes], int] = {}

    def add(self, content: RecordDict) -> None:
        """Count a message that was sent or received."""
        self.total += self.weigh(content)

    def weigh(self, content: RecordDict) -> int:
        """The size of one message in bytes. Flower sends each object separately."""
        records: dict[str, Any] = dict(content)
        groups = 0
        for name, record in content.array_records.items():
            if is_group(name):
                # Stands for the group; it differs for each name, since Flower sends equal objects only once.
                records[name] = ArrayRecord({name: Array(np.frombuffer(name.encode(), dtype=np.uint8))})
                key = (name, tuple((tensor, tuple(array.shape), array.dtype) for tensor, array in record.items()))
                if key not in self._groups:
                    self._groups[key] = _serialized_size(record) - _serialized_size(records[name])
                groups += self._groups[key]
        return _serialized_size(RecordDict(records)) + groups


def _serialized_size(item: Any) -> int:
    """Bytes of ``item`` and of all objects inside it."""
    children = getattr(item, "children", None) or {}
    return len(item.deflate()) + sum(map(_serialized_size, children.values()))


@dataclass(frozen=True)
class Deadline:
    """``timeout`` seconds per site. ``lanes``: how many sites run at a time in a simulation, where the others wait for
    their turn without being late; None: all sites run at once."""

    timeout: float
    lanes: int | None = None

    def seconds(self, sites: int) -> float:
        """How long to wait for ``sites`` replies."""
        return self.timeout * (1 if self.lanes is None else math.ceil(sites / self.lanes))


def needed(quorum: float, asked: int) -> int:
    """How many of ``asked`` sites must answer: 7 for 0.07 of 100, despite floating point."""
    return math.ceil(quorum * asked - 1e-9)


class Exchange:
    """Messages on their way. ``collect`` receives the replies that have arrived, without waiting; ``close`` gives up on
    the rest.

    An error reply may come from the SuperLink rather than from the node, so that a reply belongs to the site whose
    message it answers. ``meter`` counts the bytes sent and received.
    """

    def __init__(self, grid: Grid, messages: Sequence[Message], deadline: Deadline, meter: WireMeter) -> None:
        """Push ``messages``. One that the SuperLink does not take, since its node has left, fails at once."""
        self.replies: Replies[RecordDict] = Replies()
        self.began = time.monotonic()
        self._grid, self._meter, self._deadline = grid, meter, deadline
        self._end = self.began + deadline.seconds(len(messages))
        for message in messages:  # a site that comes back later must not work on a message whose sender has given up
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
        """Receive the replies that have arrived; the names of their sites."""
        names = []
        for reply in list(self._grid.pull_messages(list(self._waiting))) if self._waiting else []:
            name = self._waiting.pop(reply.metadata.reply_to_message_id)
            names.append(name)
            if reply.has_error():
                reason = " ".join((reply.error.reason or "").split())
                self.replies.failures[name] = reason or f"error {reply.error.code}"
                continue
            self._meter.add(reply.content)
            error = read_error(reply.content)
            if error is None:
                self.replies.received[name] = reply.content
            else:
                self.replies.failures[name] = error.message
        return names

    def close(self) -> Replies[RecordDict]:
        """The replies; a site that is silent until now has failed. An engine that can drops the messages that are still
        on their way, so that none runs beside the next round."""
        forget = getattr(self._grid, "forget", None)
        if self._waiting and forget is not None:
            forget(list(self._waiting))
        for name in self._waiting.values():
            self.replies.failures[name] = f"no answer in {self._deadline.timeout:g} s"
        self._waiting.clear()
        return self.replies


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    deadline: Deadline,
    meter: WireMeter,
    arrived: Callable[[str], None] = lambda name: None,
) -> Replies[RecordDict]:
    """Push ``messages`` and wait for their replies until ``deadline``; calls ``arrived`` with the name of each site as
    its reply comes in."""
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


def pause(waited: float) -> float:
    """Seconds until the next poll after ``waited`` seconds without a reply: a twentieth of them, within bounds."""
    return min(max(POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS)


@dataclass(frozen=True)
class Channel:
    """The run's connection to its sites: Flower's ``grid``, the ``meter`` of all messages, and ``note``, which shows a
    line to the user."""

    grid: Grid
    config: RunConfig
    meter: WireMeter
    note: Callable[[str], None]

    def exchange(
        self, messages: Sequence[Message], arrived: Callable[[str], None] = lambda name: None
    ) -> Replies[RecordDict]:
        """``exchange`` under ``sites.timeout``; in a simulation the sites take turns."""
        engine = self.config.engine
        deadline = Deadline(self.config.sites.timeout, lanes=engine.workers if engine.simulated else None)
        return exchange(self.grid, messages, deadline, self.meter, arrived)
