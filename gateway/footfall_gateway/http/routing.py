"""Turns a table of operations into routes. The same table describes them: see openapi.py."""

import os
import re
import time
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
from footfall_servicekit import logs
from footfall_timeline import normalize_uuid
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from footfall_gateway import metrics
from footfall_gateway.auth import EVERYBODY, Audit, Authenticator, KeyScope, Principal
from footfall_gateway.http.bodies import BodyReader, ClientGoneError, require_unencoded
from footfall_gateway.http.includes import Includes, parse_includes
from footfall_gateway.problem import ErrorStyle, Problem, format_error

Query = TypeVar("Query", bound=msgspec.Struct)
Body = TypeVar("Body")
Method = Literal["GET", "POST", "PUT", "DELETE", "OPTIONS"]

JSON = "application/json; charset=UTF-8"
"""Spelled as the original spells it."""

_MAX_PARAMETERS = 100
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_COMMON_HEADERS = (
    ("cache-control", "no-store"),  # most of it is about people
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
)

_log = structlog.get_logger()


class NoQuery(msgspec.Struct):
    """An operation without query parameters."""


@dataclass(slots=True)
class Call(Generic[Query, Body]):
    """One request, decoded."""

    path: Mapping[str, str]
    query: Query
    includes: Includes
    body: Body
    principal: Principal
    headers: Mapping[str, str]
    address: str

    def uuid(self, name: str, resource: str) -> str:
        """The path parameter `name` in its stored form.

        Raises:
            Problem: 404. What is no UUID names no resource.

        """
        try:
            return normalize_uuid(self.path[name])
        except ValueError:
            raise Problem(404, f"no such {resource}") from None


@dataclass(frozen=True, slots=True)
class Operation(Generic[Query, Body]):
    """One method on one path: what is called, what it takes and what it answers."""

    name: str
    method: Method
    path: str
    handler: Callable[[Call[Query, Body]], Awaitable[Response]]
    """Its docstring describes the operation."""
    query: type[Query]
    answer: Any = None
    """Type of the body of a 200; None when there is none."""
    body: type[Body] | None = None
    required_scope: KeyScope | None = KeyScope.READ
    """None: open to everybody."""
    includes: tuple[str, ...] = ()
    """What `include_*` may name."""
    decode: Callable[[bytes], Body] | None = None
    """What reads a body that is not simply the JSON of its type; may raise Problem."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that it reads, each with what it says."""
    media_type: str = JSON
    """Of a 200."""
    also: Mapping[int, Any] = field(default_factory=dict)
    """Types of bodies of further statuses that are answers and not errors."""


@dataclass(frozen=True, slots=True)
class Api:
    """Operations that are served below the same prefixes and answer errors alike."""

    tag: str
    prefixes: tuple[str, ...]
    operations: Sequence[Operation[Any, Any]]
    style: ErrorStyle


def json_response(body: Any, status: int = 200, /, **headers: str) -> Response:
    """A compact JSON body."""
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"content-type": JSON} | {name.replace("_", "-"): value for name, value in headers.items()},
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """What every request to an operation passes."""

    authenticator: Authenticator
    audit: Audit
    bodies: BodyReader


def routes(api: Api, gate: Gate) -> list[Route]:
    """One route a path and prefix."""
    by_path: dict[str, dict[str, Operation[Any, Any]]] = {}
    for operation in api.operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(prefix + path, _PathEndpoint(operations, api.style, gate))
        for prefix in api.prefixes
        for path, operations in by_path.items()
    ]


@dataclass(slots=True)
class _RequestSubject:
    """What is known of a request by the time it is answered: who asks, and about whom."""

    principal: Principal | None = None
    subject_hashes: Mapping[str, str] = field(default_factory=dict)


class _PathEndpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, operations: Mapping[str, Operation[Any, Any]], style: ErrorStyle, gate: Gate) -> None:
        self._operations = operations
        self._style = style
        self._gate = gate
        allowed = {*operations, "OPTIONS"} | ({"HEAD"} if "GET" in operations else set())
        self._allow = ", ".join(sorted(allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        logs.request_id.set(_given_or_new_request_id(headers))
        operation = self._operations.get("GET" if scope["method"] == "HEAD" else scope["method"])
        subject = _RequestSubject()
        try:
            if operation is None:
                response = self._options_or_405(scope["method"])
            else:
                response = await operation.handler(await self._decode_call(operation, scope, headers, receive, subject))
        except ClientGoneError:
            return
        except Problem as problem:
            response = self._style.response(problem)
        except Exception:
            _log.exception("request failed", operation=operation and operation.name)
            response = self._style.response(Problem(500, "internal error"))
        _record(operation, response.status_code, time.perf_counter() - started, subject)
        response.headers["x-request-id"] = logs.request_id.get()
        for name, value in _COMMON_HEADERS:
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def _decode_call(
        self,
        operation: Operation[Any, Any],
        scope: Scope,
        headers: Mapping[str, str],
        receive: Receive,
        subject: "_RequestSubject",
    ) -> Call[Any, Any]:
        address = scope["client"][0] if scope["client"] else ""
        if operation.required_scope:
            subject.principal = await self._gate.authenticator.authenticate(headers.get("authorization", ""), address)
        path = {name: _decode_segment(value) for name, value in scope["path_params"].items()}
        if operation.required_scope and subject.principal:
            subject.subject_hashes = self._gate.audit.subject_hashes(path)
            subject.principal.require_scope(operation.required_scope)
            _reject_cross_site(operation.method, headers)
        values = _parse_query(scope["query_string"])
        return Call(
            path=path,
            query=_convert_query(values, operation.query),
            includes=parse_includes(values, operation.includes),
            body=await self._read_body(operation, headers, receive),
            principal=subject.principal or EVERYBODY,
            headers=headers,
            address=address,
        )

    async def _read_body(self, operation: Operation[Any, Any], headers: Mapping[str, str], receive: Receive) -> Any:
        if operation.body is None:
            return None
        _require_json(headers)
        raw = await self._gate.bodies.read(receive)
        return operation.decode(raw) if operation.decode else _decode_body(raw, operation.body)

    def _options_or_405(self, method: str) -> Response:
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allow})
        raise Problem(405, "method not allowed here", allow=self._allow)


def _reject_cross_site(method: Method, headers: Mapping[str, str]) -> None:
    """Raises Problem 403 for what a page of another origin changes with the credentials its browser remembers of us.

    Sec-Fetch-Site says it best, but browsers leave it out towards plain HTTP. Origin comes with every such request, and
    is compared with the host that was asked. Clients that are no browsers send neither.
    """
    if method == "GET":
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site:
        is_same_origin = site in {"same-origin", "none"}
    else:
        is_same_origin = not origin or origin.partition("://")[2] == headers.get("host")
    if not is_same_origin:
        raise Problem(403, "a page of another origin may not do that")


def _require_json(headers: Mapping[str, str]) -> None:
    """Raises Problem 415 for what a body is not. A form, and what has no type, any page may send to any origin."""
    require_unencoded(headers.get("content-encoding", ""))
    if headers.get("content-type", "").partition(";")[0].rstrip().lower() != "application/json":
        raise Problem(415, "Content-Type: must be application/json")


def _parse_query(raw: bytes) -> dict[str, str]:
    try:
        return dict(
            parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
        )
    except UnicodeDecodeError:
        raise Problem(400, "query: is not percent-encoded UTF-8") from None
    except ValueError:
        raise Problem(400, f"query: at most {_MAX_PARAMETERS} parameters") from None


def _convert_query(values: Mapping[str, str], query: type[Query]) -> Query:
    try:
        return msgspec.convert(values, query, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, format_error(error)) from None


def _decode_body(raw: bytes, body: type[Body]) -> Body:
    try:
        return msgspec.json.decode(raw.removeprefix(BOM_UTF8), type=body)
    except msgspec.ValidationError as error:
        raise Problem(400, format_error(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "the body is not JSON") from None


def _decode_segment(segment: str) -> str:
    """One segment of the raw path: routed while encoded, so an id may hold `/` (`%2F`), `#`, `%` and anything else."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise Problem(400, "path: is not percent-encoded UTF-8") from None


def _given_or_new_request_id(headers: Mapping[str, str]) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()


def _record(operation: Operation[Any, Any] | None, status: int, seconds: float, subject: _RequestSubject) -> None:
    """Count and log a request: by operation, because paths and queries name people; docs/security.md: Audit."""
    name = operation.name if operation else "none"
    metrics.REQUESTS.labels(name, str(status)).inc()
    metrics.REQUEST_SECONDS.labels(name).observe(seconds)
    write = _log.info if operation and operation.required_scope else _log.debug  # probes come every few seconds
    write(
        "request",
        operation=name,
        status=status,
        ms=round(seconds * 1000, 1),
        client=subject.principal and subject.principal.name,
        key=subject.principal and subject.principal.key_id,
        subject_hashes=subject.subject_hashes,
    )
