"""Turns certificate files (PEM) into what TLS takes, and into it anew when they have changed."""

import os
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
import structlog

T = TypeVar("T")

_log = structlog.get_logger()


class KeyPair(NamedTuple):
    """The files of a certificate, with those between it and its authority, and of its key, which is not encrypted."""

    certificate: Path
    key: Path


class ClientTls(NamedTuple):
    """What a client goes by: the authorities it believes, and what it shows to a server that asks."""

    authorities: Path
    pair: KeyPair | None


class ReloadingFile(Generic[T]):
    """What is made of files. It asks them only when it is asked: at each handshake, or now and then."""

    def __init__(self, make: Callable[[], T], files: Iterable[Path | None]) -> None:
        """Raises OSError as `make` does."""
        self._make = make
        self._files = [file for file in files if file]
        self._seen = self._look()
        self.latest = make()

    def renewed(self) -> T | None:
        """What the files give now; None while they are as before. Never raises, and may be called by any thread.

        Files that cannot be used, such as a certificate whose key is still to be written, leave what was there.
        """
        seen = self._look()
        if seen == self._seen:
            return None
        self._seen = seen  # so that what cannot be used is tried, and told, once
        names = [file.name for file in self._files]
        try:
            self.latest = self._make()
        except OSError as error:
            _log.warning("certificate files have changed and cannot be used", files=names, reason=reason_of(error))
            return None
        _log.info("certificate files have changed", files=names)
        return self.latest

    def _look(self) -> list[tuple[int, ...]]:
        return [_mark(file) for file in self._files]


def _mark(file: Path) -> tuple[int, ...]:
    try:
        about = os.stat(file)  # follows links, by which Kubernetes changes all files of a folder at once
    except OSError:
        return ()
    return about.st_mtime_ns, about.st_ino, about.st_size


def server_context(pair: KeyPair) -> ssl.SSLContext:
    """The context of a server that shows this certificate, by TLS 1.2 or newer.

    Raises:
        OSError: a file cannot be read, or they are no certificate and its key.

    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*pair, password="")  # none: OpenSSL would ask the terminal for one
    return context


def reason_of(error: OSError) -> str:
    """Why files cannot be used, in words of OpenSSL or of the system that quote nothing."""
    return getattr(error, "reason", None) or error.strerror or type(error).__name__


def check_authorities(file: Path) -> None:
    """Raises OSError when a file cannot be read, or does not hold certificates."""
    ssl.create_default_context(cafile=file)


def server_credentials(pair: KeyPair, client_authorities: Path | None) -> grpc.ServerCredentials:
    """Credentials of a gRPC server, which looks at the files at each handshake. Raises OSError.

    With `client_authorities`, clients must show a certificate that one of these has signed.
    """

    def make() -> grpc.ServerCertificateConfiguration:
        roots = _read_authorities(client_authorities) if client_authorities else None
        return grpc.ssl_server_certificate_configuration([_read_pair(pair)], roots)

    followed = ReloadingFile(make, (*pair, client_authorities))
    renewed: Any = followed.renewed  # None for "no change" is missing in the stub
    return grpc.dynamic_ssl_server_credentials(
        followed.latest, renewed, require_client_authentication=client_authorities is not None
    )


def channel_credentials(tls: ClientTls) -> ReloadingFile[grpc.ChannelCredentials]:
    """Credentials of gRPC channels. gRPC cannot change those of a channel: another must be opened. Raises OSError."""

    def make() -> grpc.ChannelCredentials:
        key, chain = _read_pair(tls.pair) if tls.pair else (None, None)
        return grpc.ssl_channel_credentials(_read_authorities(tls.authorities), key, chain)

    return ReloadingFile(make, (tls.authorities, *(tls.pair or ())))


def _read_pair(pair: KeyPair) -> tuple[bytes, bytes]:
    server_context(pair)  # that they do not belong together gRPC would say too late
    return pair.key.read_bytes(), pair.certificate.read_bytes()


def _read_authorities(file: Path) -> bytes:
    check_authorities(file)
    return file.read_bytes()
