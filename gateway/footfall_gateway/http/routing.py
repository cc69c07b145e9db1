"""The table of operations, and the routes made from it. openapi.py describes the API from the same table."""

import os
import re
import time
from codecs import BOM_UTF8
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl, unquote

import msgspec
import structlog
from footfall_servicekit import logs, tracing
from footfall_timeline import normalize_uuid
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from footfall_gateway import metrics
from footfall_gateway.auth import EVERYBODY, Audit, Authenticator, KeyScope, Principal, session_token
from footfall_gateway.http.bodies import BodyReader, ClientGoneError, require_plain
from footfall_gateway.http.includes import Includes, parse_includes
from footfall_gateway.problem import ErrorStyle, Problem, format_error
from footfall_gateway.recent import RECENT

Query = TypeVar("Query", bound=msgspec.Struct)
Body = TypeVar("Body")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

JSON = "application/json; charset=UTF-8"
"""As spelled by Genesys Web Engagement."""

_MAX_PARAMETERS = 100
_MAX_SHOWN_NAME = 64
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_COMMON_HEADERS = (
    ("cache-control", "no-store"),  # responses contain personal data
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
)

_log = structlog.get_logger()


class NoQuery(msgspec.Struct):
    """An operation without query parameters."""


@dataclass(slots=True)
class Call(Generic[Query, Body]):
    """A decoded request."""

    path: Mapping[str, str]
    query: Query
    includes: Includes
    body: Body
    principal: Principal
    headers: Mapping[str, str]
    address: str

    def uuid(self, name: str, resource: str) -> str:
        """The UUID in the path parameter `name`, in its stored form.

        Raises:
            Problem: 404, it is not a UUID, so no resource has it.

        """
        try:
            return normalize_uuid(self.path[name])
        except ValueError:
            raise Problem(404, f"no such {resource}") from None


@dataclass(frozen=True, slots=True)
class Operation(Generic[Query, Body]):
    """One method on one path: its handler, parameters, body and response."""

    name: str
    method: Method
    path: str
    handler: Callable[[Call[Query, Body]], Awaitable[Response]]
    """Its docstring is the description of the operation."""
    query: type[Query]
    response_type: Any = None
    """Type of the body of a 200; None: it has no body."""
    body: type[Body] | None = None
    required_scope: KeyScope | None = KeyScope.READ
    """None: no authentication."""
    allows_any_scope: bool = False
    """Whether credentials of any scope are enough, also others than `required_scope`."""
    includes: tuple[str, ...] = ()
    """The lists that `include_*` may name."""
    decode: Callable[[bytes], Body] | None = None
    """A decoder for a body that is not plain JSON of its type; may raise Problem."""
    body_types: tuple[str, ...] = ("application/json",)
    """The media types of the body, all of JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Descriptions of the request headers that the handler reads."""
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    """Descriptions of the headers of a 200."""
    media_type: str = JSON
    """Of a 200."""
    also: Mapping[int, Any] = field(default_factory=dict)
    """Types of the bodies of other statuses that are not errors."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Descriptions of the errors that openapi.py does not expect of such an operation."""
    never: Set[int] = frozenset()
    """Errors that openapi.py expects of such an operation, and that it never has."""
    example: Any = None
    """A body, as JSON types."""


@dataclass(frozen=True, slots=True)
class Api:
    """Operations with the same path prefixes and the same form of errors."""

    tag: str
    prefixes: tuple[str, ...]
    operations: Sequence[Operation[Any, Any]]
    style: ErrorStyle
    refuses_unknown_parameters: bool = False
    """Whether a query parameter that an operation does not have is an error; else it is ignored."""


def json_response(body: Any, status: int = 200, /, **headers: str) -> Response:
    """A response with a compact JSON body."""
    return Response(
        msgspec.json.encode(body),
        status,
        headers={"content-type": JSON} | {name.replace("_", "-"): value for name, value in headers.items()},
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """The checks of every request to an operation: credentials, audit and body."""

    authenticator: Authenticator
    audit: Audit
    bodies: BodyReader


def routes(api: Api, gate: Gate) -> list[Route]:
    """The routes of an API, one for each path and prefix."""
    by_path: dict[str, dict[str, Operation[Any, Any]]] = {}
    for operation in api.operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    return [
        Route(prefix + path, _PathEndpoint(operations, api, gate))
        for prefix in api.prefixes
        for path, operations in by_path.items()
    ]


@dataclass(slots=True)
class _RequestSubject:
    """The client of a request, and the hashed ids of the resources it names. For the log line."""

    principal: Principal | None = None
    subject_hashes: Mapping[str, str] = field(default_factory=dict)


class _PathEndpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, operations: Mapping[str, Operation[Any, Any]], api: Api, gate: Gate) -> None:
        self._operations = operations
        self._style = api.style
        self._refuses_unknown_parameters = api.refuses_unknown_parameters
        self._gate = gate
        allowed = {*operations, "OPTIONS"} | ({"HEAD"} if "GET" in operations else set())
        self._allow = ", ".join(sorted(allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        logs.request_id.set(_given_or_new_request_id(headers))
        operation = self._operations.get("GET" if scope["method"] == "HEAD" else scope["method"])
        subject = _RequestSubject()
        trace, span = tracing.valid(headers.get(tracing.TRACEPARENT_KEY)), None
        if operation and operation.required_scope:
            span, trace = tracing.begin_outside(operation.name, trace)
        logs.traceparent.set(trace)
        try:
            if operation is None:
                response = self._options_or_405(scope["method"])
            else:
                response = await operation.handler(await self._decode_call(operation, scope, headers, receive, subject))
        except ClientGoneError:
            if span:
                span.end(failed=True)
            return
        except Problem as problem:
            response = self._style.response(problem)
        except Exception:
            _log.exception("request failed", operation=operation and operation.name)
            response = self._style.response(Problem(500, "internal error"))
        _record(operation, response.status_code, time.perf_counter() - started, subject)
        if span:
            span.end(failed=response.status_code >= 500, **{"http.response.status_code": response.status_code})
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
            subject.principal = await self._gate.authenticator.authenticate(
                headers.get("authorization", ""), address, session_token(headers)
            )
        path = {name: _decode_segment(value) for name, value in scope["path_params"].items()}
        if operation.required_scope and subject.principal:
            subject.subject_hashes = self._gate.audit.subject_hashes(path)
            if not operation.allows_any_scope:
                subject.principal.require_scope(operation.required_scope)
            _reject_cross_site(operation.method, headers)
        pairs = _parse_query(scope["query_string"])
        values = dict(pairs)
        if self._refuses_unknown_parameters:
            _reject_unknown_parameters(values, operation)
        return Call(
            path=path,
            query=_convert_query(pairs, operation.query),
            includes=parse_includes(values, operation.includes),
            body=await self._read_body(operation, headers, receive),
            principal=subject.principal or EVERYBODY,
            headers=headers,
            address=address,
        )

    async def _read_body(self, operation: Operation[Any, Any], headers: Mapping[str, str], receive: Receive) -> Any:
        if operation.body is None:
            return None
        _require_json(headers, operation.body_types)
        raw = await self._gate.bodies.read(receive)
        return operation.decode(raw) if operation.decode else _decode_body(raw, operation.body)

    def _options_or_405(self, method: str) -> Response:
        if method == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allow})
        raise Problem(405, f"method not allowed; use {self._allow}", allow=self._allow)


def _reject_cross_site(method: Method, headers: Mapping[str, str]) -> None:
    """Raises Problem 403 for a write from a page of another origin, with credentials that its browser remembers.

    Sec-Fetch-Site says so directly, but browsers omit it over plain HTTP. Then Origin, which browsers send with every
    write, must be the requested host. Clients other than browsers send neither header.
    """
    if method == "GET":
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site:
        is_same_origin = site in {"same-origin", "none"}
    else:
        is_same_origin = not origin or origin.partition("://")[2] == headers.get("host")
    if not is_same_origin:
        raise Problem(403, "pages of another origin may not write")


def _require_json(headers: Mapping[str, str], types: Sequence[str]) -> None:
    """Raises Problem 415 for a body that is not JSON. Any page may send a form, or no type, to any origin."""
    require_plain(headers.get("content-encoding", ""))
    if headers.get("content-type", "").partition(";")[0].rstrip().lower() not in types:
        raise Problem(415, f"Content-Type: must be {' or '.join(types)}")


def _parse_query(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise Problem(400, "query: must be percent-encoded UTF-8") from None
    except ValueError:
        raise Problem(400, f"query: must have at most {_MAX_PARAMETERS} parameters") from None


def _reject_unknown_parameters(values: Mapping[str, str], operation: Operation[Any, Any]) -> None:
    """Raises Problem 400 for a parameter that the operation does not have: a wrong filter would find everything."""
    query: type[msgspec.Struct] = operation.query
    known = [*_field_names(query)]
    known += [f"include_{name}{suffix}" for name in operation.includes for suffix in ("", "_detail")]
    for name in values:
        if name not in known:
            rule = f"use {', '.join(known)}" if known else "there are none"
            raise Problem.parameter(name[:_MAX_SHOWN_NAME], f"is not a parameter of this operation; {rule}")


def _convert_query(pairs: Sequence[tuple[str, str]], query: type[Query]) -> Query:
    """Return the query of these parameters. Of one that is repeated all values count if it is a list, else the last."""
    values: dict[str, str | list[str]] = dict(pairs)
    for name in _list_parameters(query) & values.keys():
        values[name] = [value for given, value in pairs if given == name and value]
    try:
        return msgspec.convert(values, query, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, format_error(error)) from None


@cache
def _field_names(query: type[msgspec.Struct]) -> Sequence[str]:
    """The names of the parameters in a query."""
    return [field.encode_name for field in msgspec.structs.fields(query)]


@cache
def _list_parameters(query: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(query) if _is_list(field.type))


def _is_list(annotation: Any) -> bool:
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_origin(inner) is list


def _decode_body(raw: bytes, body: type[Body]) -> Body:
    try:
        return msgspec.json.decode(raw.removeprefix(BOM_UTF8), type=body)
    except msgspec.ValidationError as error:
        raise Problem(400, format_error(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "the body is not JSON") from None


def _decode_segment(segment: str) -> str:
    """One segment of the raw path. It is decoded after routing, so that an id may contain `/` (`%2F`)."""
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise Problem(400, "path: must be percent-encoded UTF-8") from None


def _given_or_new_request_id(headers: Mapping[str, str]) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(8).hex()


def _record(operation: Operation[Any, Any] | None, status: int, seconds: float, subject: _RequestSubject) -> None:
    """Count and log a request by its operation: paths and queries contain personal data (docs/security.md, Audit)."""
    name = operation.name if operation else "none"
    metrics.REQUESTS.labels(name, str(status)).inc()
    metrics.REQUEST_SECONDS.labels(name).observe(seconds)
    if operation and operation.required_scope:
        RECENT.note_answered(name, status, seconds, logs.request_id.get())
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
