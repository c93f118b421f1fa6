"""Errors that a user can act on: each names the thing, what was expected, what was found, and what to do."""


def one_line(text: str) -> str:
    """``text`` as one line: what it quotes from a table or a path may hold line breaks, or characters that a terminal
    would obey."""
    lines = " ".join(part for line in text.replace("\t", " ").splitlines() if (part := line.strip()))
    return "".join(c if c.isprintable() else "?" for c in lines)


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


def words_of(error: BaseException) -> str:
    """Why something failed: the project's own errors speak for themselves, any other is named with its type."""
    return str(error) if isinstance(error, FedReconError) else f"{type(error).__name__}: {error}"
