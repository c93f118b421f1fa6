"""A site's error: the reply to any message that a site could not answer for a reason that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict

from fedrecon_core.errors import FedReconError, one_line

RECORD, LONGEST = "error", 2000
"""The record's name, and the most characters of a message: a site must not fill the server's log."""


@dataclass(frozen=True)
class SiteError:
    """``kind`` is the class of the error ("DataError"), ``message`` its text in one line."""

    kind: str
    message: str


def write_error(error: FedReconError) -> RecordDict:
    """The reply of a site on which ``error`` was raised."""
    return RecordDict({RECORD: ConfigRecord({"kind": type(error).__name__, "message": str(error)[:LONGEST]})})


def read_error(content: RecordDict) -> SiteError | None:
    """The error in a reply; None if it holds none. Whatever a site sends, the text is short and printable."""
    if RECORD not in content:
        return None
    record = content[RECORD]
    kind, message = (one_line(str(record.get(key, "")))[:LONGEST] for key in ("kind", "message"))
    return SiteError(kind, message or f"{kind or 'an error'} without a message")
