"""The scripts in the image: the health check and the registration of keys."""

import contextlib
import importlib.util
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from server.engines.certificates import write_certificates

pytestmark = pytest.mark.quick

SCRIPTS = Path(__file__).resolve().parents[3] / "docker" / "bin"


# --- the probe -------------------------------------------------------------------------------------------------------


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def probe(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Exit code and output of the health check for a command line."""
    module = script("health")
    monkeypatch.setattr(module, "SECONDS", 2.0)

    def ask(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["health.py", *words])
        return module.main(), capsys.readouterr().out

    return ask


@contextlib.contextmanager
def health_server(status: int) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


@pytest.fixture
def alive() -> Iterator[str]:
    with health_server(health_pb2.HealthCheckResponse.SERVING) as address:
        yield address


@contextlib.contextmanager
def listener(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A port on loopback that takes connections, with TLS where there is a context."""

    def serve() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = near.accept()
                with contextlib.suppress(OSError), connection:
                    if context:
                        context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as near:
        threading.Thread(target=serve, daemon=True).start()
        yield f"localhost:{near.getsockname()[1]}"
        near.shutdown(socket.SHUT_RDWR)


def certified(folder: Path, host: str) -> ssl.SSLContext:
    list(write_certificates(folder, [host], [], 30))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    return context


def test_a_part_that_serves_is_healthy(probe, alive):
    with listener() as port:
        assert probe(alive, "--tcp", port) == (0, "")


def test_a_part_that_does_not_answer_is_not(probe):
    code, said = probe("127.0.0.1:1")
    assert code == 1
    assert "the health server at 127.0.0.1:1 does not answer: " in said


def test_a_part_that_does_not_serve_is_not(probe):
    with health_server(health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        code, said = probe(address)
    assert code == 1
    assert "reports NOT_SERVING" in said


def test_a_port_that_nobody_listens_at_is_told(probe, alive):
    code, said = probe(alive, "--tcp", "127.0.0.1:1")
    assert code == 1
    assert said.startswith("127.0.0.1:1: ")


def test_a_certificate_that_holds_is_healthy(probe, alive, tmp_path):
    with listener(certified(tmp_path, "localhost")) as port:
        assert probe(alive, "--tls", port, "--ca", str(tmp_path / "ca.crt")) == (0, "")


@pytest.mark.parametrize(("host", "authority"), [("elsewhere", "own"), ("localhost", "other")])
def test_a_certificate_that_does_not_hold_is_told(probe, alive, tmp_path, host, authority):
    list(write_certificates(tmp_path / "other", ["localhost"], [], 30))
    with listener(certified(tmp_path / "own", host)) as port:
        code, said = probe(alive, "--tls", port, "--ca", str(tmp_path / authority / "ca.crt"))
    assert code == 1
    assert "certificate verify failed" in said


# --- registration ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch, tmp_path, capsys) -> Callable[[str], tuple[int, str]]:
    """What ``register.py`` makes of an answer of Flower's command."""
    module = script("register")
    (tmp_path / "site-0000.pub").write_text("a key")

    def ask(answer: str) -> tuple[int, str]:
        done = subprocess.CompletedProcess([], 0, answer, "")
        monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
        code = module.main("federation", str(tmp_path))
        return code, "".join(capsys.readouterr())

    return ask


def test_a_key_is_registered(registered):
    assert registered('{"success": true, "node-id": 7}') == (0, "site-0000: registered as node 7\n")


def test_a_key_that_is_known_does_no_harm(registered):
    said = '{"success": false, "error-message": "The public key is already in use."}'
    assert registered(said) == (0, "site-0000: was registered before\n")


def test_a_key_that_is_refused_is_told(registered):
    code, said = registered('{"success": false, "error-message": "no SuperLink"}')
    assert code == 1
    assert said.startswith("register: site-0000.pub: the SuperLink did not register it: ")
    assert "no SuperLink" in said


def test_a_folder_without_keys_is_told(tmp_path, capsys):
    assert script("register").main("federation", str(tmp_path)) == 1
    assert f"expected public keys (*.pub) in {tmp_path}, found none" in capsys.readouterr().err
