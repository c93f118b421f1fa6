"""Health check of a part of a federation. Exit code 0 if its health server reports SERVING; otherwise 1 and the reason.

    health.py 127.0.0.1:9099
    health.py 127.0.0.1:9099 --tls localhost:8000 --ca ca.crt

Flower's health server has no TLS and can be reached from inside the container only. It replies as long as the process
lives. ``--tls`` therefore also opens a TLS connection to the SuperLink's own port and checks its certificate, so that
an expired certificate is reported before a site is refused. ``--tcp`` checks that the port accepts connections.
"""

import argparse
import socket
import ssl
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4.0


def serving(address: str) -> None:
    """Query the health server at ``address``. Raises ``OSError`` unless it reports SERVING."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=SECONDS)
        except grpc.RpcError as error:
            raise OSError(f"the health server at {address} does not respond: {error.code().name}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        raise OSError(f"the health server at {address} reports {status}")


def open_port(address: str) -> None:
    """Connect to ``address``. Raises ``OSError`` if nothing listens there."""
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), SECONDS).close()


def check_tls(address: str, authority: str) -> None:
    """Open a TLS connection to ``address``. Raises ``OSError`` unless ``authority`` signed its certificate."""
    host, port = address.rsplit(":", 1)
    context = ssl.create_default_context(cafile=authority)
    with (
        socket.create_connection((host, int(port)), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass


def main() -> int:
    """Run the checks that the command line asks for."""
    parser = argparse.ArgumentParser(description="Check the health of a Flower process.")
    parser.add_argument("address", help="host:port of its health server")
    parser.add_argument("--tcp", help="host:port that must accept connections")
    parser.add_argument("--tls", help="host:port whose certificate must be valid")
    parser.add_argument("--ca", help="certificate of the authority, for --tls")
    given = parser.parse_args()
    try:
        serving(given.address)
        if given.tcp:
            open_port(given.tcp)
        if given.tls:
            check_tls(given.tls, given.ca)
    except OSError as error:
        print(f"{given.tls or given.tcp or given.address}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
