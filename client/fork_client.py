"""The command ``flwr-clientapp`` of a site with a fork server (``client/fork_server.py``).

It is started for every message, so it imports the standard library only. Without a server that answers, it becomes
Flower's own command.
"""

import contextlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path

SOCKET = "FEDRECON_FORK_SERVER"


def ask(path: str) -> int | None:
    """Let the server at ``path`` run the ClientApp, and return its exit code; None if the server does not answer."""
    request = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": str(Path.cwd())}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError:
            return None
        socket.send_fds(connection, [len(content).to_bytes(8, "big")], [1, 2])
        with contextlib.suppress(OSError):
            connection.sendall(content)
            code = connection.recv(1)
            return code[0] if code else 1  # killed
    return 1


def main() -> None:
    """Run the ClientApp in a fork of the server, or as a new process."""
    path = os.environ.get(SOCKET, "")
    code = ask(path) if path else None
    if code is not None:
        sys.exit(code)
    own = Path(__file__).resolve().with_name("bin")
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if Path(folder).resolve() != own]
    command = shutil.which("flwr-clientapp", path=os.pathsep.join(folders))
    if command is None:
        sys.exit("flwr-clientapp: expected Flower's command on PATH, found none")
    os.execv(command, [command, *sys.argv[1:]])


if __name__ == "__main__":
    main()
