"""Traces: the W3C trace context of the work that is being done, and spans of it where OpenTelemetry is configured.

Without OTEL_EXPORTER_OTLP_ENDPOINT no span is made. The context that a caller sends is then in log lines, and is passed
on to services that are called.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import ClassVar, Final, Literal, Protocol, TypeAlias

from footfall_servicekit import logs

TRACEPARENT_KEY: Final = "traceparent"
"""Metadata of a call, and a header of a request."""
Kind: TypeAlias = Literal["server", "client", "consumer"]
Attribute: TypeAlias = str | int | bool

_CONTEXT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_LINKS: Final = 128
_NOTHING: Final = nullcontext()


class Span(Protocol):
    """A span that has begun."""

    traceparent: str
    """Its context, for what is done within it."""

    def end(self, *, failed: bool = False, **attributes: Attribute) -> None:
        """End it. Further calls do nothing."""


class Spans(Protocol):
    """Makes spans and exports them."""

    def begin(self, name: str, kind: Kind, parent: str, links: Sequence[str], **attributes: Attribute) -> Span:
        """Begin a span; without a parent, of a new trace."""

    def close(self) -> None:
        """Export the spans that have ended, for two seconds at most."""


class Tracing:
    """How this process traces; set when it starts."""

    spans: ClassVar[Spans | None] = None
    share: ClassVar[float] = 0.0


def configure(service: str, endpoint: str | None, share: float) -> None:
    """Export spans to an endpoint, if there is one. `share`: of the requests from outside, 0 to 1."""
    if endpoint:
        Tracing.spans = import_module("footfall_servicekit.otel").OtelSpans(service, endpoint)
        Tracing.share = share


def close() -> None:
    """Export what is left. Call once, at the end of the process."""
    if Tracing.spans:
        Tracing.spans.close()


def is_on() -> bool:
    """Whether this process makes spans."""
    return Tracing.spans is not None


def valid(context: object) -> str:
    """A context as it was sent; empty when it is not one of version 00."""
    return context if isinstance(context, str) and _CONTEXT.fullmatch(context) else ""


def begin(name: str, parent: str, *, makes_trace: bool, **attributes: Attribute) -> Span | None:
    """Begin the span of a call by another service. None: the call is not traced.

    A call without a context begins a new trace, if `makes_trace`, for the share of calls that is traced.
    """
    if Tracing.spans is None or not (_is_sampled(parent) if parent else makes_trace and _is_chosen("")):
        return None
    return Tracing.spans.begin(name, "server", parent, (), **attributes)


def begin_outside(name: str, parent: str, **attributes: Attribute) -> tuple[Span | None, str]:
    """Begin the span of a request from outside; return the context for what is done about it as well.

    The sender's trace goes on, but not its decision about sampling: anybody can ask for any number of spans.
    """
    if Tracing.spans is None:
        return None, parent
    parent = valid(parent)
    if not _is_chosen(parent):
        return None, parent and f"{parent[:-2]}00"
    span = Tracing.spans.begin(name, "server", parent, (), **attributes)
    return span, span.traceparent


def work(name: str, contexts: Iterable[str], kind: Kind, **attributes: Attribute) -> AbstractContextManager[None]:
    """A span for work on one or more requests, while the context manager is open; none if no request is traced.

    The span belongs to the trace of the first of them, and has links to the others.
    """
    if Tracing.spans is None:
        return _NOTHING
    traced = [*dict.fromkeys(context for context in contexts if _is_sampled(context))]
    return _working(Tracing.spans, name, kind, traced, attributes) if traced else _NOTHING


@contextmanager
def _working(
    spans: Spans, name: str, kind: Kind, traced: Sequence[str], attributes: dict[str, Attribute]
) -> Iterator[None]:
    span = spans.begin(name, kind, traced[0], traced[1 : 1 + _MAX_LINKS], **attributes)
    before = logs.traceparent.set(span.traceparent)
    try:
        yield
    except BaseException:
        span.end(failed=True)
        raise
    finally:
        logs.traceparent.reset(before)
        span.end()


def _is_sampled(context: str) -> bool:
    return bool(context and _CONTEXT.fullmatch(context) and int(context[-2:], 16) & 1)


def _is_chosen(context: str) -> bool:
    """Whether a request is one of the share that is traced. Requests of one trace are all traced, or none of them."""
    # The last 56 bits of a trace id are random, by W3C Trace Context level 2.
    number = int(context[21:35], 16) / 2**56 if context else random.random()  # noqa: S311  # no secret
    return number < Tracing.share
