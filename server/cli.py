"""The ``fedrecon`` command: assembles the commands of ``server.commands`` and turns errors into one line on stderr."""

from __future__ import annotations

import signal
import sys

import typer
from rich.console import Console

from fedrecon_core.errors import FedReconError, one_line
from server.commands import coherence, deployment, results, run, site, sweep
from server.commands.data import data
from server.commands.run import InterruptedRunError

application = typer.Typer(
    name="fedrecon",
    help="Federated learning on incomplete multimodal data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (run, coherence, sweep, results, deployment, site):
    group.add_to(application)
application.add_typer(data)
errors = Console(stderr=True)


@application.callback()
def _root() -> None:
    """Federated learning on incomplete multimodal data."""


def main() -> None:
    """Run the command. An error that a user can act on is one line on stderr, never a traceback."""
    code: int | None = None
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = application(standalone_mode=False)  # Typer answers Ctrl-C by returning 130
    except FedReconError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's own usage errors have it
            raise
        _fail(error.format_message(), 2)
    if code == InterruptedRunError.exit_code:
        _fail("interrupted before the run began; nothing was written", InterruptedRunError.exit_code)
    sys.exit(code or 0)


def _interrupt(number: int, frame: object) -> None:
    """Treat SIGTERM, as sent by a service manager, like Ctrl-C: end all processes, and print how to resume."""
    raise KeyboardInterrupt


def _fail(text: str, code: int) -> None:
    if text:  # empty if help was shown because there were no arguments
        errors.print(f"fedrecon: {one_line(text)}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
