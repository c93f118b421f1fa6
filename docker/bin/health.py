"""Is a part of a federation alive? Exit code 0 if its health server says SERVING; else 1 and a line that says why not.

    health.py 127.0.0.1:9099
    health.py 127.0.0.1:9099 --tls localhost:8000 --ca ca.crt

Flower's health server has no TLS and is reached from inside the container alone. It answers as long as the process
lives; ``--tls`` therefore also shakes hands with the SuperLink's own port and checks its certificate, so that one that
has run out shows here before a site is refused. ``--tcp`` asks whether the port takes connections, without TLS.
"""

import argparse
import socket
import ssl
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4.0


def serving(address: str) -> None:
    """Ask the health server at ``address``. Raises ``OSError`` unless it says SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
        except grpc.RpcError as error:
            raise OSError(f"the health server at {address} does not answer: {error.code().name}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise OSError(f"the health server at {address} says {status}")


def open_port(address: str) -> None:
    """Connect to ``address``. Raises ``OSError`` if nothing listens there."""
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), SECONDS).close()


def register_sites(address: str, authority: str) -> None:
    """TLS with ``address``, whose certificate must hold and be signed by ``authority``. Raises ``OSError``."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection((host, int(port)), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass


def main() -> int:
    """Check what the command line names."""
    parser = argparse.ArgumentParser(description="Ask a Flower process how it is.")
    parser.add_argument("address", help="host:port of its health server")
    parser.add_argument("--tcp", help="host:port that must take connections")
    parser.add_argument("--tls", help="host:port whose certificate must hold")
    parser.add_argument("--ca", help="the authority's certificate, for --tls")
    given = parser.parse_args()
    try:
        serving(given.address)
        if given.tcp:
            open_port(given.tcp)
        if given.tls:
            register_sites(given.tls, given.ca)
    except OSError as error:
        print(f"{given.tls or given.tcp or given.address}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
