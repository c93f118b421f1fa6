"""``flwr-clientapp`` in a fork of a process that has PyTorch imported."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import client.fork_server
from tests.helpers.processes import wait_until

COMMAND = Path(client.fork_server.__file__).parent / "bin" / "flwr-clientapp"


@pytest.fixture
def server():
    """A server for this process, and the environment of a SuperNode that uses it."""
    folder = Path(tempfile.mkdtemp())  # the path of a socket has at most 107 characters
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        arguments = ["-P", "-m", "client.fork_server", str(listener.fileno()), str(os.getpid())]
        process = subprocess.Popen([sys.executable, *arguments], pass_fds=[listener.fileno()])
    path = f"{COMMAND.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"FEDRECON_PYTHON": sys.executable, "FEDRECON_FORK_SERVER": str(folder / "socket"), "PATH": path}
    yield process, {**os.environ, **places, "FLWR_TELEMETRY_ENABLED": "0"}
    process.terminate()
    process.wait()
    assert not folder.exists()


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["flwr-clientapp", *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_command_runs_in_a_fork_with_its_arguments_output_and_exit_code(server):
    process, environment = server
    shown, refused = call(environment, "--help"), call(environment, "--no-such-option")
    assert (shown.returncode, refused.returncode) == (0, 2)
    assert shown.stdout.startswith("usage: flwr-clientapp ") and shown.stderr == ""
    assert "flwr-clientapp: error: one of the arguments --token" in refused.stderr
    assert process.poll() is None


def test_without_a_server_the_command_is_flowers_own(server):
    process, environment = server
    process.kill()
    process.wait()
    assert call(environment, "--help").stdout.startswith("usage: flwr-clientapp ")
    Path(environment["FEDRECON_FORK_SERVER"]).unlink()
    Path(environment["FEDRECON_FORK_SERVER"]).parent.rmdir()


def test_a_request_that_is_no_request_does_not_end_the_server(server):
    process, environment = server
    for content in (b"", b"x", (2**40).to_bytes(8, "big")):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(environment["FEDRECON_FORK_SERVER"])
            connection.sendall(content)
    assert call(environment, "--help").returncode == 0
    assert process.poll() is None


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    """The SuperNode may be killed, and then nobody tells the server."""
    script = tmp_path / "site.py"
    script.write_text(
        "import os, signal, sys\n"
        "from server.commands.site import start_fork_server\n"
        "start_fork_server()\n"
        "print(os.environ['FEDRECON_FORK_SERVER'], flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as site:
        folder = Path(site.stdout.readline().strip()).parent
        assert folder.is_dir()
        site.send_signal(signal.SIGKILL)
    wait_until("the server has removed its folder", lambda: not folder.exists())
