"""Who may call what: roles by the names in certificates, scopes by API keys, and the sites that a caller may see."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import grpc
import structlog

from footfall_servicekit import health, logs, reflection
from footfall_servicekit.callers import Caller, FindCaller, Grant
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog

AccessTable = Mapping[str, Collection[str]]
"""The names of the methods that each role, or each scope, may call. A method in no list is refused for every one."""

_FOR_ALL = {health.SERVICE_NAME, *reflection.SERVICE_NAMES}
"""Services that every caller may call."""
_ALL_SITES: Final[frozenset[str]] = frozenset()
_NO_SCOPES: Final[AccessTable] = MappingProxyType({})

_log = structlog.get_logger()
_keyless = FailureLog("calls without a valid key are refused", "method")


class Access:
    """The access rules of a server: its callers show certificates, keys, or both."""

    def __init__(
        self,
        roles: AccessTable,
        grants: Collection[Grant] = (),
        scopes: AccessTable = _NO_SCOPES,
        find_caller: FindCaller | None = None,
        *,
        has_certificates: bool = True,
    ) -> None:
        """Set the rules.

        With certificates, a caller needs a role. Without `grants` each name in a certificate is a role itself. With
        `find_caller`, a caller may show a key, and must do so where there are no certificates. Who has both may do what
        both allow.
        """
        self._roles = roles
        self._grants = grants
        self._scopes = scopes
        self._find_caller = find_caller
        self._has_certificates = has_certificates

    def check(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> frozenset[str]:
        """Check the caller of a method ("/service/name"); return the sites that it is limited to, none for all.

        Raises:
            RequestError: UNAUTHENTICATED, its key is missing or not valid; PERMISSION_DENIED, none of its roles, or no
                scope of its key, may call the method, or they allow no site in common.

        """
        service, _, name = method.removeprefix("/").partition("/")
        if service in _FOR_ALL:
            return _ALL_SITES
        sites = self._sites_of_role(method, name, context) if self._has_certificates else _ALL_SITES
        if self._find_caller is None:
            return sites
        sent = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not sent and self._has_certificates:
            return sites
        token = sent.removeprefix("Bearer ") if isinstance(sent, str) else ""
        return _common(sites, self._sites_of_key(method, name, self._find_caller(token)))

    def _sites_of_role(self, method: str, name: str, context: "grpc.aio.ServicerContext[Any, Any]") -> frozenset[str]:
        names = _names(context)
        grants = self._grants or [Grant(each, each) for each in sorted(names)]
        found = [each for each in grants if each.name in names and name in self._roles.get(each.role, ())]
        if not found:
            _log.warning("a client called a method that its role may not call", method=method, names=sorted(names))
            raise RequestError.permission_denied(f"the role of this client may not call {name}", "ROLE_NOT_ALLOWED")
        logs.caller.set(found[0].name)
        sites = [each.sites for each in found]
        return _ALL_SITES.union(*sites) if all(sites) else _ALL_SITES

    def _sites_of_key(self, method: str, name: str, caller: Caller | None) -> frozenset[str]:
        if caller is None:
            _keyless.failed(method)
            message = "give the token of an API key as metadata: authorization, with Bearer and a space before it"
            raise RequestError(grpc.StatusCode.UNAUTHENTICATED, "KEY_NOT_VALID", message)
        logs.caller.set(f"{caller.name} ({caller.key})")
        if not any(name in self._scopes.get(scope, ()) for scope in caller.scopes):
            raise RequestError.permission_denied(f"no scope of this key allows {name}", "SCOPE_MISSING")
        return caller.sites


def limit(request: Any, sites: frozenset[str]) -> None:
    """Limit a request to the sites of its caller.

    Raises:
        RequestError: PERMISSION_DENIED, it names another site, or its method knows no limit of sites.

    """
    if "sites" not in request.DESCRIPTOR.fields_by_name:
        raise _site_not_allowed("this caller is limited to sites, and the method works on all of them")
    if not request.sites:
        request.sites.extend(sorted(sites))
    elif not sites.issuperset(request.sites):
        raise _site_not_allowed("sites: this caller may not see one of them")


def _common(of_role: frozenset[str], of_key: frozenset[str]) -> frozenset[str]:
    if not (of_role and of_key):
        return of_role or of_key
    if not (common := of_role & of_key):
        raise _site_not_allowed("the certificate and the key of this caller have no site in common")
    return common


def _site_not_allowed(message: str) -> RequestError:
    return RequestError.permission_denied(message, "SITE_NOT_ALLOWED")


def _names(context: "grpc.aio.ServicerContext[Any, Any]") -> set[str]:
    """The alternative names (URIs, DNS names) of the caller's certificate, or else its common name.

    As in RFC 6125, 6.4.4, a common name beside alternative names is ignored.
    """
    found: Mapping[str, Iterable[bytes]] = context.auth_context()
    raw = found.get("x509_subject_alternative_name") or found.get("x509_common_name", [])
    return {name.decode("utf-8", "replace") for name in raw}
