"""A health check for containers: `python -m footfall_servicekit.probe HOST:PORT`."""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from footfall_servicekit.health import reason_in
from footfall_servicekit.tls import ClientTls, KeyPair, channel_credentials

TIMEOUT_S = 3


def main() -> int:
    """Exit with 0 when the server at the address is ready, else with 1. The flags are those of grpc_health_probe."""
    parser = argparse.ArgumentParser(prog="python -m footfall_servicekit.probe", description=main.__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument(
        "--tls-ca-cert", type=Path, help="authorities that signed the server's certificate; without it, no TLS"
    )
    parser.add_argument("--tls-client-cert", type=Path, help="certificate for a server that requires one")
    parser.add_argument("--tls-client-key", type=Path, help="its key")
    parser.add_argument("--tls-server-name", help="name in the server's certificate, if it is not HOST")
    options = parser.parse_args()
    with _channel(options) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer, call = check.with_call(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            sys.stderr.write(f"{options.address}: {error.code().name}\n")
            return 1
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return 0
    sys.stderr.write(f"{options.address}: {reason_in(call.trailing_metadata()) or 'it does not serve'}\n")
    return 1


def _channel(options: argparse.Namespace) -> grpc.Channel:
    if options.tls_ca_cert is None:
        return grpc.insecure_channel(options.address)
    pair = KeyPair(options.tls_client_cert, options.tls_client_key) if options.tls_client_cert else None
    names = [("grpc.ssl_target_name_override", options.tls_server_name)] if options.tls_server_name else []
    credentials = channel_credentials(ClientTls(options.tls_ca_cert, pair)).latest
    return grpc.secure_channel(options.address, credentials, options=names)


if __name__ == "__main__":
    sys.exit(main())
