"""TLS from certificate files (PEM), which are read again when they have changed."""

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from footfall_servicekit.reloading import ReloadingFile


class KeyPair(NamedTuple):
    """The files of a certificate chain and of its key, which is not encrypted."""

    certificate: Path
    key: Path


class ClientTls(NamedTuple):
    """The authorities that a client trusts, and the certificate that it shows to a server that requires one."""

    authorities: Path
    pair: KeyPair | None


def server_context(pair: KeyPair) -> ssl.SSLContext:
    """The context of a server with this certificate, for TLS 1.2 or newer.

    Raises:
        OSError: a file cannot be read, or the files are not a certificate and its key.

    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*pair, password="")  # empty: without it OpenSSL would ask for one on the terminal
    return context


def check_authorities(file: Path) -> None:
    """Raises OSError when a file cannot be read, or does not hold certificates."""
    ssl.create_default_context(cafile=file)


def server_credentials(pair: KeyPair, client_authorities: Path | None) -> grpc.ServerCredentials:
    """Credentials of a gRPC server, which checks the files for changes at each handshake. Raises OSError.

    With `client_authorities`, clients must show a certificate that one of them has signed.
    """

    def make() -> grpc.ServerCertificateConfiguration:
        roots = _read_authorities(client_authorities) if client_authorities else None
        return grpc.ssl_server_certificate_configuration([_read_pair(pair)], roots)

    files = ReloadingFile(make, (*pair, client_authorities))
    renewed: Any = files.renewed  # the type stub lacks None for "no change"
    return grpc.dynamic_ssl_server_credentials(
        files.latest, renewed, require_client_authentication=client_authorities is not None
    )


def channel_credentials(tls: ClientTls) -> ReloadingFile[grpc.ChannelCredentials]:
    """Credentials for gRPC channels. With new credentials, another channel must be opened. Raises OSError."""

    def make() -> grpc.ChannelCredentials:
        key, chain = _read_pair(tls.pair) if tls.pair else (None, None)
        return grpc.ssl_channel_credentials(_read_authorities(tls.authorities), key, chain)

    return ReloadingFile(make, (tls.authorities, *(tls.pair or ())))


def _read_pair(pair: KeyPair) -> tuple[bytes, bytes]:
    server_context(pair)  # gRPC would find out only later that they do not belong together
    return pair.key.read_bytes(), pair.certificate.read_bytes()


def _read_authorities(file: Path) -> bytes:
    check_authorities(file)
    return file.read_bytes()
