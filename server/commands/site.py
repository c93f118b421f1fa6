"""``fedrecon site``: a SuperNode that does not import PyTorch again for every message."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import typer

from fedrecon_core.errors import UsageError
from server.engines.flower import program
from server.runs.setup import APP

SERVER = "client.fork_server"
COMMANDS = APP / "client" / "bin"
"""Has the ``flwr-clientapp`` that asks the server."""
POLL_SECONDS = "0.1"
"""How often Flower looks for a message that has arrived, unless the environment says otherwise; its default is 1."""


def site(context: typer.Context) -> None:
    """Start flower-supernode, and a process that has PyTorch imported and forks itself for every message.

    All options are those of flower-supernode; a message takes seconds less.
    """
    supernode = program("flower-supernode")
    if not {"-h", "--help", "-V", "--version"} & set(context.args):
        start_fork_server()
    os.execv(supernode, [supernode, *context.args])


def start_fork_server() -> None:
    """Start the server for this process, which becomes the SuperNode, and set the SuperNode's environment."""
    path = Path(tempfile.mkdtemp(prefix="fedrecon-site-")) / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
        except OSError as error:
            path.parent.rmdir()
            raise UsageError(f"cannot make the socket {path}: {error}; set TMPDIR to another folder") from None
        listener.listen(64)
        arguments = [sys.executable, "-P", "-m", SERVER, str(listener.fileno()), str(os.getpid())]
        subprocess.Popen(arguments, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
    os.environ["FEDRECON_PYTHON"], os.environ["FEDRECON_FORK_SERVER"] = sys.executable, str(path)
    os.environ["PATH"] = os.pathsep.join([str(COMMANDS), os.environ.get("PATH", os.defpath)])
    os.environ.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", POLL_SECONDS)


def add_to(application: typer.Typer) -> None:
    """Add the command to the program."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    application.command("site", context_settings=settings)(site)
