"""Roles of callers, from the names in their certificates, and the methods that each role may call."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import grpc
import structlog

from footfall_servicekit import health, reflection
from footfall_servicekit.errors import RequestError

AccessTable = Mapping[str, Collection[str]]
"""The names of the methods that each role may call. A method in no list is refused for every role."""

_FOR_ALL = {health.SERVICE_NAME, *reflection.SERVICE_NAMES}
"""Services that every caller with a certificate may call."""

_log = structlog.get_logger()


class Access:
    """The access rules of a server whose callers show certificates."""

    def __init__(self, table: AccessTable, roles: Collection[tuple[str, str]]) -> None:
        """`roles` are pairs of a name in certificates and a role. Without pairs, each name is a role itself."""
        self._table = table
        self._roles = roles

    def check(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Check the caller of a method ("/service/name").

        Raises:
            RequestError: PERMISSION_DENIED, when no role of the caller may call the method.

        """
        service, _, name = method.removeprefix("/").partition("/")
        if service in _FOR_ALL:
            return
        names = _names(context)
        roles = {role for known, role in self._roles if known in names} if self._roles else names
        if not any(name in self._table.get(role, ()) for role in roles):
            _log.warning("a client called a method that its role may not call", method=method, names=sorted(names))
            raise RequestError.permission_denied(f"the role of this client may not call {name}", "ROLE_NOT_ALLOWED")


def _names(context: "grpc.aio.ServicerContext[Any, Any]") -> set[str]:
    """The alternative names (URIs, DNS names) of the caller's certificate, or else its common name.

    As in RFC 6125, 6.4.4, a common name beside alternative names is ignored.
    """
    found: Mapping[str, Iterable[bytes]] = context.auth_context()
    raw = found.get("x509_subject_alternative_name") or found.get("x509_common_name", [])
    return {name.decode("utf-8", "replace") for name in raw}
