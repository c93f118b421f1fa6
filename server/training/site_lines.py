"""The lines of ``sites.jsonl``: what each sampled site was sent, what it sent back, and how it went."""

from __future__ import annotations

from typing import Any

from flwr.app import Message

from server.federation.messaging import Replies
from strategies import messages
from strategies.federation import Federation


def site_lines(
    round_: int, attempt: int, sent: list[Message], replies: Replies, federation: Federation
) -> list[dict[str, Any]]:
    """One line per sampled site, in site order. ``attempt`` counts from 1 where a round had to be repeated."""
    lines = []
    for message in sorted(sent, key=messages.addressee):
        name = messages.addressee(message)
        down = messages.group_sizes(message.content)
        line = {
            "round": round_,
            "site": name,
            "attempt": attempt,
            "status": "ok" if name in replies.messages else "failed",
            "samples": federation.sites[name].samples,
            "groups_down": sorted(down),
            "bytes_down": sum(down.values()),
        }
        lines.append({**line, **_answer(replies, name)})
    return lines


def _answer(replies: Replies, name: str) -> dict[str, Any]:
    if name not in replies.messages:
        return {"reason": replies.failures[name]}
    content = replies.messages[name].content
    reply, up = messages.read_numbers(content), messages.group_sizes(content)
    return {
        "groups_up": sorted(up),
        "counts": reply.counts,
        "real": reply.real,
        "bytes_up": sum(up.values()),
        **{f"{phase}_seconds": seconds for phase, seconds in reply.seconds.items()},
    }
