"""TLS of the gateway. A connection uses the certificate and key files as they are at its handshake."""

import ssl
from functools import partial

from footfall_servicekit.reloading import ReloadingFile
from footfall_servicekit.tls import KeyPair, server_context

STRICT_TRANSPORT_SECURITY = ("strict-transport-security", "max-age=31536000")
"""Browsers use only HTTPS for a year. Without includeSubDomains: other hosts may belong to other services."""


def https_context(pair: KeyPair) -> ssl.SSLContext:
    """The context to listen with. Raises OSError when the files cannot be used."""
    make = partial(server_context, pair)
    contexts = ReloadingFile(make, pair)

    def choose(connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.current()

    context = make()
    context.sni_callback = choose  # called at each handshake, also without a server name
    return context
