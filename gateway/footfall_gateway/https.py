"""Turns the gateway's certificate and key into the TLS of its connections, each with the files as they are then."""

import ssl
from functools import partial

from footfall_servicekit.reloading import ReloadingFile
from footfall_servicekit.tls import KeyPair, server_context

STRICT_TRANSPORT_SECURITY = ("strict-transport-security", "max-age=31536000")
"""A browser that has come by TLS once takes no other way for a year. Other hosts of the domain are not ours to bind."""


def https_context(pair: KeyPair) -> ssl.SSLContext:
    """The context to listen with. Raises OSError when the files cannot be used."""
    make = partial(server_context, pair)
    contexts = ReloadingFile(make, pair)

    def choose(connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = contexts.current()

    context = make()
    context.sni_callback = choose  # called at each handshake, whether the client names a server or not
    return context
