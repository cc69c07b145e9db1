"""Types of settings: what a value must be, and how the table of settings says so."""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_PORT = r":([1-9][0-9]{0,4})"
_TARGET = re.compile(
    rf"(dns:(//[^/\s]*/)?)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]){_PORT}|(ipv4|ipv6|unix|unix-abstract|xds):\S+"
)


def _check_store_url(url: str) -> str:
    # A URL that is parsed wrongly would fail later, with an error that quotes a part of the password.
    if not re.fullmatch(r"[a-z+]+://([^@/?#]+@)?[^@/?#]*([/?][^@]*)?", url):
        raise ValueError("must be a URL; `@`, `/`, `?` and `#` in a user or password are written `%40` and so on")
    return url


def _check_target(target: str) -> str:
    found = _TARGET.fullmatch(target)
    if not found or int(found[4] or 0) > 65_535:
        raise ValueError("must be `host:port`, or `dns:///host:port` to ask again for the addresses of a name")
    return target


def _check_http_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", url):
        raise ValueError("must be `http://host:port` or `https://host:port`, without user and password")
    return url


def _check_database_name(name: str) -> str:
    if not re.fullmatch(r'[^/\\. "$*<>:|?\0]{1,63}', name):
        raise ValueError('must have 1 to 63 letters, and no space or any of / \\ . " $ * < > : | ?')
    return name


@dataclass(frozen=True)
class Accepts:
    """What a setting accepts, for its table, where the type of the field does not say it."""

    text: str


StoreUrl = Annotated[str, AfterValidator(_check_store_url), Accepts("a URL")]
"""URL of a store, which may hold a user and a password: give its field `repr=False`."""

Target = Annotated[str, AfterValidator(_check_target), Accepts("`host:port` or `dns:///host:port`")]
"""Address of a gRPC service for its clients."""

HttpUrl = Annotated[str, AfterValidator(_check_http_url), Accepts("`http://host:port` or `https://...`")]

DatabaseName = Annotated[str, AfterValidator(_check_database_name), Accepts("a name of 1 to 63 characters")]

Host = Annotated[
    str, AfterValidator(lambda host: host.removeprefix("[").removesuffix("]")), Accepts("an address or its name")
]
"""An address or name to listen on; an IPv6 address may be in brackets."""


def readable_by(*readers: Callable[[Path], object]) -> AfterValidator:
    """A file that all `readers` accept. They raise OSError, or ValueError with one problem a line."""

    def check(file: Path | None) -> Path | None:
        try:
            for read in readers:
                if file:
                    read(file)
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from None
        return file

    return AfterValidator(check)


def listening_problems(host_name: str, host: str, ports: Mapping[str, int], *, is_trial: bool) -> Iterator[str]:
    """Problems of an address, set by the variable `host_name`, and of ports, by their variables.

    In a trial a port may be taken: by the running process whose settings are tried.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as held:  # until all are tried, to find a port that is given twice
        try:
            held.enter_context(socket.create_server((host, 0), family=family))
        except (OSError, UnicodeError):
            yield f"{host_name}: must be an address of this machine, or a name of one"
            return
        for name, port in ports.items():
            try:
                held.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                if not (is_trial and error.errno == errno.EADDRINUSE):
                    yield f"{name}: cannot listen on port {port}: {os.strerror(error.errno or 0)}"
