"""Turns a server's answer to a health check into an exit code: `python -m footfall_servicekit.probe HOST:PORT`."""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_servicekit.tls import ClientTls, KeyPair, channel_credentials

TIMEOUT_S = 3


def main() -> int:
    """Exit with 0 when the server at the given address is ready, else with 1. Flags are those of grpc_health_probe."""
    parser = argparse.ArgumentParser(prog="python -m footfall_servicekit.probe", description=main.__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--tls-ca-cert", type=Path, help="authorities of the server's certificate; without, no TLS")
    parser.add_argument("--tls-client-cert", type=Path, help="certificate for a server that asks for one")
    parser.add_argument("--tls-client-key", type=Path, help="its key")
    parser.add_argument("--tls-server-name", help="name in the server's certificate, where that is not HOST")
    told = parser.parse_args()
    with _channel(told) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.stderr.write(f"{told.address}: {error.code().name}\n")
            return 1
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(told: argparse.Namespace) -> grpc.Channel:
    if told.tls_ca_cert is None:
        return grpc.insecure_channel(told.address)
    pair = KeyPair(told.tls_client_cert, told.tls_client_key) if told.tls_client_cert else None
    options = [("grpc.ssl_target_name_override", told.tls_server_name)] if told.tls_server_name else []
    return grpc.secure_channel(
        told.address, channel_credentials(ClientTls(told.tls_ca_cert, pair)).latest, options=options
    )


if __name__ == "__main__":
    sys.exit(main())
