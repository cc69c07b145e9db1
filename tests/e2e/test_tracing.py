"""One beacon is one trace through all services: real processes export their spans by OTLP to a receiver of the test."""

import asyncio
import json
import secrets
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

GATEWAY, COLLECTOR, IDENTITY, HISTORY = (f"footfall-{name}" for name in ("gateway", "collector", "identity", "history"))
WAY_OF_A_SIGN_IN: Final = {
    (GATEWAY, "beacon"),
    (GATEWAY, "send a batch"),
    (COLLECTOR, "footfall.collector.v1.CollectorService/Collect"),
    (IDENTITY, "footfall.identity.v1.IdentityService/ResolveEvents"),
    (IDENTITY, "read by identity-live"),
    (IDENTITY, "read by identity"),
    (HISTORY, "read by history"),
}


class Received(NamedTuple):
    """A span that a service has exported. Ids are hexadecimal; a link is the id of a trace."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: frozenset[str]


class Receiver:
    """What a service for traces has received."""

    def __init__(self) -> None:
        self.spans: list[Received] = []

    def add(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                trace_id, span_id, parent_id = (
                    each.hex() for each in (span.trace_id, span.span_id, span.parent_span_id)
                )
                links = frozenset(link.trace_id.hex() for link in span.links)
                found = Received(about["service.name"], span.name, trace_id, span_id, parent_id, links)
                self.spans.append(found)

    def of(self, trace_id: str) -> list[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]


class Traced(NamedTuple):
    """A suite that traces everything, and where its spans arrive."""

    suite: Suite
    receiver: Receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            receiver.add(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "TRACE_SHARE": "1",
        }
        with running_suite(tmp_path_factory.mktemp("traced"), settings) as suite:
            yield Traced(suite, receiver)
        server.shutdown()


def new_ids() -> tuple[str, str]:
    """The ids of a trace and of a span, as a page makes them."""
    return secrets.token_hex(16), secrets.token_hex(8)


async def test_one_trace_has_a_beacon_and_what_every_service_does_about_it(traced: Traced) -> None:
    trace_id, span_id = new_ids()
    body = event("SignIn", str(uuid.uuid4()), now_ms(), "dana")
    async with traced.suite.http() as http:
        headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        assert (await http.post("/beacon", json=body, headers=headers)).status_code == 204

    async def complete() -> None:
        assert {(span.service, span.name) for span in traced.receiver.of(trace_id)} == WAY_OF_A_SIGN_IN

    await eventually(complete, timeout=30)
    by_id = {span.span_id: span for span in traced.receiver.of(trace_id)}
    parents = {span.name: by_id[span.parent_id].name if span.parent_id in by_id else "" for span in by_id.values()}
    assert parents.pop("beacon") == ""
    assert next(span for span in by_id.values() if span.name == "beacon").parent_id == span_id
    collect, resolve = (name for _, name in sorted(WAY_OF_A_SIGN_IN) if "Service/" in name)
    assert (parents.pop(collect), parents.pop(resolve)) == ("send a batch", collect)
    assert {*parents.values()} == {"beacon"}


async def test_beacons_without_a_trace_get_one_and_batches_lead_to_each_of_them(traced: Traced) -> None:
    before = {span.trace_id for span in traced.receiver.spans}
    async with traced.suite.http() as http:
        bodies = [event("PageEntered", str(uuid.uuid4()), now_ms()) for _ in range(20)]
        answers = await asyncio.gather(*(http.post("/beacon", json=body) for body in bodies))
        assert {answer.status_code for answer in answers} == {204}

    async def found() -> None:
        beacons = {span.trace_id for span in traced.receiver.spans if span.name == "beacon"} - before
        assert len(beacons) == 20
        for name in ("send a batch", "read by identity-live", "read by history"):
            spans = [span for span in traced.receiver.spans if span.name == name]
            assert beacons <= {each for span in spans for each in (span.trace_id, *span.links)}, name

    await eventually(found, timeout=30)


async def test_a_request_and_the_calls_for_it_have_one_trace_and_log_its_id(traced: Traced) -> None:
    trace_id, span_id = new_ids()
    async with traced.suite.http() as http:
        headers = {
            "traceparent": f"00-{trace_id}-{span_id}-00"
        }  # what the caller decides about sampling does not count
        assert (await http.get("/api/v1/visitors", headers=headers)).status_code == 200

    async def complete() -> None:
        spans = {(span.service, span.name) for span in traced.receiver.of(trace_id)}
        assert spans == {(GATEWAY, "listVisitors"), (IDENTITY, "footfall.identity.v1.IdentityService/ListVisitors")}

    await eventually(complete, timeout=30)
    for program, name in (("gateway", "request"), ("identity", "rpc")):
        lines = map(json.loads, (traced.suite.data_dir / "log" / f"{program}.log").read_text().splitlines())
        assert [line["event"] for line in lines if line.get("trace_id") == trace_id] == [name]
