"""The interceptor of a gRPC server: limits, roles, request ids, metrics, log lines and error statuses of calls."""

import asyncio
import inspect
import math
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from footfall_servicekit import health, logs, metrics, tracing
from footfall_servicekit.access import Access, limit
from footfall_servicekit.channel import ANSWER_ENCODING_KEY, REQUEST_ID_KEY, caller_waits_until
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[[Any, Context], Awaitable[Any]]

_log = structlog.get_logger()
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FULL_RETRY_MS = 1_000
_NEARLY_S = 0.01  # a caller whose deadline has passed says so before the deadline that counts from the arrival here
_GZIP = b"\x1f\x8b"  # no message of protobuf begins so
_OUTAGES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
"""Codes of calls that fail because of the state of this server or its stores, so that many fail in the same way."""
_FAILURES = _OUTAGES | {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
"""Codes of calls that fail by no fault of their caller."""


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """The one interceptor of a server. It does not read messages."""

    def __init__(
        self,
        ceiling_s: float,
        access: Access | None = None,
        frequent: Collection[str] = (),
        *,
        max_calls: int,
        max_streams: int,
        max_message_bytes: int,
    ) -> None:
        """Set the limits of a server.

        A unary call is ended after `ceiling_s`; a stream may last as long as its caller wants. With `access`, a caller
        must be allowed to call the method, and a request is limited to the sites of its caller. Of the methods in
        `frequent`, only failures are logged at level info.

        Each method in `frequent` serves `max_calls` calls concurrently, and so do all other unary methods together. A
        streaming method serves `max_streams` streams. So no method is refused because of calls of another group.

        A larger request than `max_message_bytes` is refused before it is parsed.
        """
        self._ceiling_s = ceiling_s
        self._access = access
        self._frequent = frequent
        self._max_calls = max_calls
        self._max_streams = max_streams
        self._max_message_bytes = max_message_bytes
        self._methods: dict[str, _Method] = {}
        self._open = Counter[str]()
        self._failures = FailureLog("calls of a method fail", "method")
        # One for all names: callers can invent any number of them.
        self._unknown = self._refusing("unknown", _refuse_unknown)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The wrapped handler of the method, or one that refuses the call."""
        name = handler_call_details.method
        method = self._methods.get(name)
        if method is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return self._unknown
            method = self._methods[name] = self._method(name, handler)
        if self._open[method.group] >= method.limit:
            return method.refused
        if task := asyncio.current_task():  # always: gRPC serves each call in a task of its own
            self._open[method.group] += 1
            task.add_done_callback(lambda _: self._open.subtract((method.group,)))
        return method.served

    def _method(self, name: str, handler: Handler) -> "_Method":
        refused = self._refusing(name, _refuse)
        group, limit = name, math.inf  # health checks end immediately, so they need no limit
        if handler.request_streaming or handler.response_streaming:
            limit = self._max_streams
        elif name != health.CHECK:
            group, limit = name if self._is_frequent(name) else "", self._max_calls
        return _Method(self._wrap(name, handler), refused, group, limit)

    def _refusing(self, name: str, behaviour: Behaviour) -> Handler:
        # As a stream of requests, so that no request is read.
        return grpc.stream_stream_rpc_method_handler(_Call(name, behaviour, None, self._failures).serve)

    def _is_frequent(self, method: str) -> bool:
        return method.rpartition("/")[2] in self._frequent

    def _wrap(self, method: str, handler: Handler) -> Handler:
        streams_requests, streams_answers = streams = handler.request_streaming, handler.response_streaming
        kind = "_".join("stream" if is_stream else "unary" for is_stream in streams)
        behaviour = _as_coroutine(method, getattr(handler, kind))
        parse: Any = handler.request_deserializer
        serialize: Any = handler.response_serializer

        # gRPC sends callers the full text of what fails outside the handler, so single messages are converted inside.
        async def behave(request: Any, context: Context) -> Any:
            sites = self._access.check(method, context) if self._access else None
            message = request if streams_requests else self._parsed(request, parse)
            if sites:
                limit(message, sites)
            answer = await behaviour(message, context)
            return answer if streams_answers else serialize(answer)

        ceiling_s = None if streams_answers else self._ceiling_s
        call = _Call(method, behave, ceiling_s, self._failures, is_frequent=self._is_frequent(method))
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(call.serve, parse if streams_requests else None, serialize if streams_answers else None)

    def _parsed(self, raw: bytes, parse: Any) -> Any:
        try:
            raw = _decompressed(raw, self._max_message_bytes + 1)
            if len(raw) <= self._max_message_bytes:
                return parse(raw)
        except (DecodeError, zlib.error):
            message = "the request is not a message of the type that this method takes"
            raise RequestError(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE", message) from None
        message = f"the request is larger than {self._max_message_bytes} bytes"
        raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE", message)


def _decompressed(raw: bytes, max_length: int) -> bytes:
    """The message of a request, which may be compressed with gzip; of a larger one the first `max_length` bytes.

    Raises zlib.error.
    """
    if raw[:2] != _GZIP:
        return raw
    gzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    message = gzip.decompress(raw, max_length)
    if not gzip.eof and len(message) < max_length:
        raise zlib.error("incomplete")
    return message


class _Method(NamedTuple):
    """The handler of a method, and the one that refuses calls when the limit of the method's group is reached."""

    served: Handler
    refused: Handler
    group: str
    limit: float


async def _refuse(_requests: Any, _context: Context) -> None:
    raise RequestError.exhausted("the server is at its limit of concurrent calls", _FULL_RETRY_MS, "TOO_MANY_CALLS")


async def _refuse_unknown(_requests: Any, _context: Context) -> None:
    raise RequestError.unimplemented("the method")


def _as_coroutine(method: str, behaviour: Callable[[Any, Context], Any]) -> Behaviour:
    """The handler as a coroutine, which returns its answer, or writes its answers to the context."""
    if inspect.isasyncgenfunction(behaviour):

        async def write_all(request: Any, context: Context) -> None:
            async with aclosing(behaviour(request, context)) as answers:
                async for answer in answers:
                    await context.write(answer)

        return write_all
    if inspect.iscoroutinefunction(behaviour):
        return behaviour

    async def refuse(_request: Any, _context: Context) -> None:
        # Not a coroutine: the placeholder in generated code for a method that the service does not implement.
        raise RequestError.unimplemented(method)

    return refuse


class _Call:
    """The calls of one method, with its metrics."""

    def __init__(
        self,
        method: str,
        behaviour: Behaviour,
        ceiling_s: float | None,
        failures: FailureLog,
        *,
        is_frequent: bool = False,
    ) -> None:
        self._method = method
        self._behaviour = behaviour
        self._ceiling_s = ceiling_s
        self._failures = failures
        self._seconds = metrics.RPC_SECONDS.labels(method)
        self._in_flight = metrics.RPC_IN_FLIGHT.labels(method)
        self._ended = {code: metrics.RPC_CALLS.labels(method, code.name) for code in grpc.StatusCode}
        is_health = method.startswith(f"/{health.SERVICE_NAME}/")
        self._quiet = set(grpc.StatusCode) if is_health else _OUTAGES | ({grpc.StatusCode.OK} if is_frequent else set())
        self._makes_trace = not (is_health or is_frequent)
        service, _, name = method.removeprefix("/").partition("/")
        self._about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}

    async def serve(self, request: Any, context: Context) -> Any:
        """Run the handler. gRPC calls this in a task of its own."""
        sent = dict(context.invocation_metadata() or ())
        request_id = _request_id(sent)
        logs.request_id.set(request_id)
        trace = tracing.valid(sent.get(tracing.TRACEPARENT_KEY))
        span = None
        if tracing.is_on():
            span = tracing.begin(self._method[1:], trace, makes_trace=self._makes_trace, **self._about)
        logs.traceparent.set(span.traceparent if span else trace)
        sent_back = ((REQUEST_ID_KEY, request_id),)
        context.set_trailing_metadata(sent_back)
        if compressed := sent.get(ANSWER_ENCODING_KEY) == "gzip":
            context.set_compression(grpc.Compression.Gzip)
        started = time.perf_counter()
        left: float | None = context.time_remaining()
        caller_waits_until.set(None if left is None else time.monotonic() + left)
        self._in_flight.inc()
        code, reason = grpc.StatusCode.CANCELLED, ""
        try:
            answer = await self._answer(request, context)
            if compressed and answer is not None:
                await context.send_initial_metadata(())  # with a single answer, gRPC would leave out the encoding
            code = _code_of(context)
        except RequestError as refusal:
            code, reason = refusal.code, refusal.reason
            await context.abort(refusal.code, refusal.message, (*refusal.trailing_metadata, *sent_back))
        except grpc.aio.AbortError:
            code = _code_of(context)
            raise
        except asyncio.CancelledError:  # the caller left, its deadline has passed, or the grace period is over
            left = context.time_remaining()
            if left is not None and left <= _NEARLY_S:
                code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise
        else:
            return answer
        finally:
            self._record(code, reason, time.perf_counter() - started)
            if span:
                span.end(failed=code in _FAILURES, **{"rpc.grpc.status_code": code.value[0]})

    async def _answer(self, request: Any, context: Context) -> Any:
        limit = asyncio.timeout(self._ceiling_s)
        try:
            async with limit:
                return await self._behaviour(request, context)
        except (RequestError, grpc.aio.AbortError):
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                message = "the call took longer than this server allows"
                raise RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "CEILING_REACHED", message) from None
            current = logs.request_id.get()
            _log.exception("unhandled exception", method=self._method)
            message = f"internal error, request id {current}"
            raise RequestError(grpc.StatusCode.INTERNAL, "INTERNAL", message, request_id=current) from None

    def _record(self, code: grpc.StatusCode, reason: str, seconds: float) -> None:
        self._in_flight.dec()
        self._seconds.observe(seconds)
        self._ended[code].inc()
        write_line = _log.debug if code in self._quiet else _log.info
        write_line("rpc", method=self._method, code=code.name, ms=round(seconds * 1000, 2))
        if code in _OUTAGES:
            self._failures.failed(self._method, code=code.name, reason=reason)
        elif code is grpc.StatusCode.OK:
            self._failures.worked(self._method)


def _request_id(sent: Mapping[str, str | bytes]) -> str:
    """The caller's id of the request if it is well formed, else a new one."""
    value = sent.get(REQUEST_ID_KEY)
    return value if isinstance(value, str) and _REQUEST_ID.fullmatch(value) else os.urandom(16).hex()


def _code_of(context: Context) -> grpc.StatusCode:
    """The status that a handler has set or aborted with. gRPC returns it as a number, unlike its type stub."""
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else _CODES[code or 0]
