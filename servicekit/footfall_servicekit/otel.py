"""Spans by the SDK of OpenTelemetry, exported by OTLP over HTTP. It is imported only if that is configured.

The exporter reads further variables of OpenTelemetry from the environment, as for headers and certificates.
"""

import logging
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.tracing import Attribute, Kind

_CLOSE_S: Final = 2.0
_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "consumer": SpanKind.CONSUMER}


class OtelSpans:
    """Makes spans, and exports them in batches in a thread of its own. Implements `tracing.Spans`."""

    def __init__(self, service: str, endpoint: str) -> None:
        """`endpoint`: the URL to which exporters add `/v1/traces`."""
        about = {"service.name": f"footfall-{service}", "service.version": version("footfall-servicekit")}
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # who begins a span has decided
            resource=Resource.create(about),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(endpoint)))
        self._tracer = self._provider.get_tracer("footfall")
        # Its failures are logged by _Exporter, not with each batch.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def begin(self, name: str, kind: Kind, parent: str, links: Sequence[str], **attributes: Attribute) -> "_Span":
        """Begin a span; without a parent, of a new trace."""
        context = trace.set_span_in_context(NonRecordingSpan(_context_of(parent))) if parent else None
        return _Span(
            self._tracer.start_span(
                name,
                context,
                _KINDS[kind],
                attributes,
                [trace.Link(_context_of(each)) for each in links],
                record_exception=False,  # its text may quote a request
            )
        )

    def close(self) -> None:
        """Export the spans that have ended, for two seconds at most."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_CLOSE_S)


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, *, failed: bool = False, **attributes: Attribute) -> None:
        if self._span.is_recording():
            self._span.set_attributes(attributes)
            if failed:
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()


class _Exporter(OTLPSpanExporter):
    """The exporter of OTLP, with few log lines about many failures."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._failures = FailureLog("spans cannot be exported and are lost", "endpoint")
        self._where = endpoint

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS:
            self._failures.worked(self._where)
        else:
            self._failures.failed(self._where)
        return result


def _context_of(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
