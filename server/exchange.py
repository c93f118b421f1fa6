"""Send messages to sites and collect the replies until all are there or the deadline has passed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from strategies.messages import addressee
from strategies.wire import WireMeter

POLL_SECONDS = 0.05
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


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    deadline: Deadline,
    meter: WireMeter,
    arrived: Callable[[str], None] = lambda name: None,
) -> Replies:
    """Push ``messages`` and wait for their replies until ``deadline``.

    An error reply may come from the SuperLink rather than from the node, so a reply belongs to the site whose message
    it answers. Silence until the deadline is a failure. ``meter`` weighs what is
    sent and received; ``arrived`` is told each site's name as its reply comes in.
    """
    replies = Replies()
    for message in messages:  # a site that comes back later must not work on what nobody waits for any more
        message.metadata.ttl = deadline.seconds(len(messages)) + GRACE_SECONDS
    ids = list(grid.push_messages(messages))
    for message in messages:
        meter.add(message.content)
    waiting = {key: addressee(message) for key, message in zip(ids, messages, strict=True)}
    end = time.monotonic() + deadline.seconds(len(messages))
    while waiting and time.monotonic() < end:
        found = list(grid.pull_messages(list(waiting)))
        for reply in found:
            name = waiting.pop(reply.metadata.reply_to_message_id)
            if reply.has_content():
                meter.add(reply.content)
            _sort_in(replies, name, reply)
            arrived(name)
        if waiting and not found:
            time.sleep(POLL_SECONDS)
    _forget(grid, list(waiting))
    for name in waiting.values():
        replies.failures[name] = f"no answer in {deadline.timeout:g} s"
    return replies


def _forget(grid: Grid, ids: list[str]) -> None:
    """Nobody waits for these any more: an engine that can drops them, so that they never run beside the next round."""
    forget = getattr(grid, "forget", None)
    if ids and forget is not None:
        forget(ids)


def _sort_in(replies: Replies, name: str, reply: Message) -> None:
    if reply.has_error():
        replies.failures[name] = " ".join((reply.error.reason or f"error {reply.error.code}").split())
    else:
        replies.messages[name] = reply
