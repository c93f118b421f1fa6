"""Errors that a user can act on: each names the subject, what was expected, what was found, and what to do."""

import difflib
from collections.abc import Iterable


class FedReconError(Exception):
    """Base of every error that is shown to the user as one line, without a traceback."""

    exit_code = 1


class UsageError(FedReconError):
    """The command, the config or the data cannot be used as given; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """A config key is unknown, of the wrong type, or impossible in combination with another."""


class DataError(UsageError):
    """A data set, a partition or a site folder cannot be used as it is."""


class RunError(FedReconError):
    """A run that had started could not reach its last round."""


def describe_error(error: BaseException) -> str:
    """Describe why something failed: the message of one of the project's errors, else the error's type and message."""
    return str(error) if isinstance(error, FedReconError) else f"{type(error).__name__}: {error}"


def one_line(text: str) -> str:
    """Return ``text`` as one printable line: quoted tables and paths may contain line breaks or control characters."""
    lines = " ".join(part for line in text.replace("\t", " ").splitlines() if (part := line.strip()))
    return "".join(c if c.isprintable() else "?" for c in lines)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the name in ``known`` that is closest to ``name``, as in ``Did you mean 'mask'?``; empty if none is.

    Where no spelling is close, the only name with ``name`` as a part is suggested (``macro_f1`` for ``f1``).
    """
    names = list(known)
    with_part = [one for one in names if name in one.split("_")]
    near = difflib.get_close_matches(name, names, n=1) or (with_part if len(with_part) == 1 else [])
    return f"Did you mean '{near[0]}'?" if near else ""
