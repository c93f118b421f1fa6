"""What tests with processes of their own share: free ports, and waits for events."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0
"""Seconds until a wait fails: only a hang takes so long, on however busy a machine."""
PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections, above those of Ray's workers."""


def wait_until(
    what: str, condition: Callable[[], object], process: subprocess.Popen[Any] | None = None, seconds: float = PATIENCE
) -> None:
    """Wait for ``condition``. Fail after ``seconds``, or as soon as ``process`` has ended without it."""
    deadline = time.monotonic() + seconds
    while True:
        ended = process is not None and process.poll() is not None
        if condition():
            return
        assert not ended, f"ended before: {what}; {process.communicate() if process else ''}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def free_port() -> int:
    """A port of loopback at which nobody listens, drawn at random, so that two tests do not choose the same one."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
