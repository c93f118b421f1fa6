"""A process that has PyTorch and Flower imported and forks itself for every ClientApp: ``fedrecon site`` starts it.

Flower starts the command ``flwr-clientapp`` for every message, and each new process takes seconds to import PyTorch. A
SuperNode whose PATH begins with ``client/bin`` starts ``fork_client.py`` under this name instead, which passes its
arguments, environment and output on to this server and waits for the exit code. This relies on the name of Flower's
command only. The packages of this project are not imported here: every ClientApp imports those of its run.

Forks are safe because nothing here starts a thread or opens a device; each child starts those it needs itself.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

COMMAND = "flwr-clientapp"
MODULES = (
    "torch",
    "flwr.supernode.cli.flwr_clientapp",
    "flwr.clientapp",
    "flwr.app",
    "pydantic",
    "safetensors.torch",
    "yaml",
    "pyarrow.parquet",
)
"""Whatever a ClientApp imports from other packages. One that cannot be imported is left to the ClientApp to report."""
LARGEST_REQUEST = 4 << 20
"""Bytes. The system limits arguments and environment of a process to about 2 MiB."""


def serve(listener: socket.socket, parent: int) -> None:
    """Import ``MODULES``, then fork for every request on ``listener`` until the process ``parent`` has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system removes children that have ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the SuperNode, and this process with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    for name in MODULES:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    listener.settimeout(1.0)
    while os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _run(connection)


def _run(connection: socket.socket) -> NoReturn:
    """Run the ClientApp that ``connection`` asks for in this process, send its exit code, and exit."""
    code = 1
    try:
        code = _call_command(*_receive(connection))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(OSError):
            connection.sendall(bytes([code]))
        os._exit(code)


def _receive(connection: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    """The arguments, environment, working directory and the descriptors of output and errors of a request: JSON, after
    its length in eight bytes that come with the descriptors."""
    connection.settimeout(10)
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    length = int.from_bytes(head, "big")
    if len(head) != 8 or length > LARGEST_REQUEST or len(descriptors) != 2:
        raise ValueError(f"expected a request of fork_client.py, found {len(head)} bytes and {len(descriptors)} files")
    content = bytearray()
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            raise EOFError("the request ended early")
        content += piece
    connection.settimeout(None)
    request = json.loads(content)
    return request["arguments"], request["environment"], request["folder"], list(descriptors)


def _call_command(arguments: list[str], environment: dict[str, str], folder: str, descriptors: list[int]) -> int:
    """Call the function behind ``flwr-clientapp`` as a new process would, and return its exit code."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [COMMAND, *arguments]
    (command,) = importlib.metadata.entry_points(group="console_scripts", name=COMMAND)
    try:
        command.load()()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    """Serve on the socket that was inherited as file descriptor ``argv[1]``, for the process ``argv[2]``."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    server = os.getpid()
    try:
        serve(listener, int(sys.argv[2]))
    finally:
        if os.getpid() == server:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
