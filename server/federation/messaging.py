"""Send messages to sites, collect their replies until a deadline, and count their bytes."""

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
"""Every poll causes a few database queries at the SuperLink: the longer the wait, the longer the interval."""
TOO_LARGE = "the SuperLink accepted no message: they are too large; use a smaller model, or fewer groups"
REFUSED = "the SuperLink accepted no message for its node, which is not registered any more"
GRACE_SECONDS = 60.0
"""The time after its deadline at which a message expires, since the clocks of two machines may differ."""

REFERENCE_BYTES = 65
"""A frame refers to each distinct object inside it by 64 hexadecimal digits and a comma."""

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and dtype of every tensor of a group."""
Reply = TypeVar("Reply")
Decoded = TypeVar("Decoded")


class ReplyError(Exception):
    """A reply that cannot be used, with the reason."""


@dataclass
class Replies(Generic[Reply]):
    """The replies of several sites: ``received`` maps the sites that answered to their replies, ``failures`` maps the
    others to the reason."""

    received: dict[str, Reply] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def decode(self, read: Callable[[str, Reply], Decoded]) -> Replies[Decoded]:
        """Decode each reply by ``read(site, reply)``, in site order; if it raises ``ReplyError``, the reply becomes a
        failure. Raw replies, which may be large, are released one by one."""
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
        """The reasons of all failures in one line, each after all sites that have it."""
        shared: dict[str, list[str]] = {}
        for name, reason in sorted(self.failures.items()):
            shared.setdefault(reason, []).append(name)
        return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in shared.items())

    @property
    def asked(self) -> int:
        """The number of sites that were sent a message."""
        return len(self.received) + len(self.failures)

    def answered(self) -> str:
        """The text ``3 of 4 sites answered``."""
        return f"{len(self.received)} of {self.asked} sites answered"


class WireMeter:
    """Adds up the sizes of messages as they are serialized, framing included. The size of a group depends only on the
    names, shapes and types of its tensors, and that of the frame on the names of the records, so that both are
    serialized once per run and not once per message."""

    def __init__(self, total: int = 0) -> None:
        """``total``: the bytes of a resumed run so far."""
        self.total = total
        self._groups: dict[tuple[str, Shapes], int] = {}
        self._frames: dict[tuple[str, ...], int] = {}

    def add(self, content: RecordDict) -> None:
        """Count a message that was sent or received."""
        self.total += self.weigh(content)

    def weigh(self, content: RecordDict) -> int:
        """The size of one message in bytes. Flower sends each object separately, and equal ones once."""
        names = tuple(content)
        if names not in self._frames:
            self._frames[names] = len(RecordDict({name: _distinct_record(name) for name in names}).deflate())
        groups = sum(self._group_size(name, r) for name, r in content.array_records.items() if is_group(name))
        others = [record.deflate() for name, record in content.items() if not is_group(name)]
        distinct = set(others)
        frame = self._frames[names] - REFERENCE_BYTES * (len(others) - len(distinct))
        return frame + groups + sum(map(len, distinct))

    def _group_size(self, name: str, record: ArrayRecord) -> int:
        key = (name, tuple((tensor, tuple(array.shape), array.dtype) for tensor, array in record.items()))
        if key not in self._groups:
            self._groups[key] = _serialized_size(record)
        return self._groups[key]


def _distinct_record(name: str) -> ArrayRecord:
    return ArrayRecord({name: Array(np.frombuffer(name.encode(), dtype=np.uint8))})


def _serialized_size(item: Any) -> int:
    """Bytes of ``item`` and of all objects inside it."""
    children = getattr(item, "children", None) or {}
    return len(item.deflate()) + sum(map(_serialized_size, children.values()))


@dataclass(frozen=True)
class Deadline:
    """``timeout`` seconds per site. ``lanes``: how many sites run at a time in a simulation, in which waiting for a
    turn does not count; None: all sites run at once."""

    timeout: float
    lanes: int | None = None

    def seconds(self, sites: int) -> float:
        """The time to wait for ``sites`` replies."""
        return self.timeout * (1 if self.lanes is None else math.ceil(sites / self.lanes))


def needed(quorum: float, asked: int) -> int:
    """How many of ``asked`` sites must answer: 7 for 0.07 of 100, despite rounding errors of floats."""
    return math.ceil(quorum * asked - 1e-9)


class Exchange:
    """Messages without a reply yet. ``collect`` receives the replies that have arrived, without waiting; ``close``
    stops waiting for the others.

    A reply is assigned to the site of the message that it answers, since an error reply may come from the SuperLink
    instead of the node. ``meter`` counts the bytes sent and received.
    """

    def __init__(self, grid: Grid, messages: Sequence[Message], deadline: Deadline, meter: WireMeter) -> None:
        """Push ``messages``. One that the SuperLink refuses, since its node has left, is a failure at once."""
        self.replies: Replies[RecordDict] = Replies()
        self.began = time.monotonic()
        self._grid, self._meter, self._deadline = grid, meter, deadline
        self._end = self.began + deadline.seconds(len(messages))
        for message in messages:  # a site that comes back later must not work on a message that is too old
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
        """Receive the replies that have arrived, and return the names of their sites."""
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
        """Return the replies; a site that has not answered is a failure. Its message is dropped if the engine can do
        so, so that it does not run during the next round."""
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
    """Push ``messages`` and wait for their replies until ``deadline``. Calls ``arrived`` with a site's name when its
    reply arrives."""
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
    """Seconds until the next poll after ``waited`` seconds without a reply: a twentieth of that time, within bounds."""
    return min(max(POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS)


@dataclass(frozen=True)
class Channel:
    """The run's connection to its sites: Flower's ``grid``, the ``meter`` for all messages, and ``note``, which prints
    a line for the user."""

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
