"""Random input to every route and RPC causes no 5xx but 503, no INTERNAL and no traceback.

FOOTFALL_FUZZ_EXAMPLES=2000 makes a night of it, with examples that are new each time; `make test` runs the same few.
What it has found is kept as examples, or in a test of its own.
"""

import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, urlencode

import grpc
import httpx
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall_servicekit import paging
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.tools.messages import serialized
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

IS_LONG = "FOOTFALL_FUZZ_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("FOOTFALL_FUZZ_EXAMPLES", "20"))
SERVICES = {
    "collector": collector.DESCRIPTOR.services_by_name["CollectorService"],
    "identity": identity.DESCRIPTOR.services_by_name["IdentityService"],
    "history": history.DESCRIPTOR.services_by_name["HistoryService"],
}
METHODS = [(name, method) for name, service in SERVICES.items() for method in service.methods]
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
STREAM_S = 0.05
"""How long to listen to what may have nothing to say."""

bounded = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not IS_LONG,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.timeout(120 + EXAMPLES * 5)

VISIT, PERSON, CONTACT = str(uuid.UUID(int=0xF022)), "o'neil/çelik #7 100%", "contact-of-the-fuzz"
known = st.sampled_from([VISIT, VISIT.upper().replace("-", ""), PERSON, CONTACT, "default", "", "0-", "\0", "x" * 600])
texts = known | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.integers(10**18, 10**30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from([*event("SignIn", VISIT, 0), "globalVisitID", "site", "sentAt", "events", "eventType", "data"])


class Doors(NamedTuple):
    """Where the suite lets one in."""

    http: httpx.Client
    channels: dict[str, grpc.Channel]


@pytest.fixture(scope="module")
def doors(suite: Suite) -> Iterator[Doors]:
    """With somebody to ask about; afterwards no log may tell of a fault."""
    sizes = {log: log.stat().st_size for log in suite.data_dir.glob("log/*.log")}
    channels = {name: suite.blocking_channel(name) for name in suite.targets}
    with suite.blocking_http(timeout=30) as http:
        signed_in = event("SignIn", VISIT, now_ms(), PERSON)
        assert http.post("/beacon", json=[signed_in]).status_code == 204
        yield Doors(http, channels)
    for channel in channels.values():
        channel.close()
    for log, size in sizes.items():
        with log.open("rb") as written:
            written.seek(size)
            lines = written.read()
        assert b"Traceback" not in lines
        assert b'"level": "error"' not in lines, lines[-4_000:]


def mutated(body: bytes, place: float, piece: bytes) -> bytes:
    at = int(place * len(body))
    return body[:at] + piece + body[at + len(piece) :]


def good_beacon(_: Any) -> bytes:
    events = [event(name, VISIT, now_ms(), PERSON, data={"a": [{}]}) for name in ("PageEntered", "SignIn")]
    return json.dumps({"sentAt": now_ms(), "events": events}).encode()


shaped = st.dictionaries(keys, json_values, max_size=8)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(shaped, max_size=4).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"events": st.lists(shaped, max_size=3), "sentAt": json_values}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.builds(mutated, st.none().map(good_beacon), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    json_values.map(lambda value: json.dumps(event("UserInfo", VISIT, now_ms()) | {"data": value}).encode()),
)


@bounded
@given(body=bodies)
@example(body=b'{"events":[{"timestamp":1e400}]}')
def test_beacons(doors: Doors, body: bytes) -> None:
    answer = doors.http.post("/beacon", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code in {204, 200, 400, 413}, answer.text
    assert doors.http.get("/beacon.gif?e=" + quote_from_bytes(body)).status_code in {200, 400}


@settings(bounded, max_examples=max(1, EXAMPLES // 4))  # what is stored is waited for
@given(body=bodies)
def test_bodies_of_the_apis(doors: Doors, body: bytes) -> None:
    for method, path in (
        ("POST", "/server/data/visits"),
        ("POST", f"/server/data/visits/{VISIT}/events"),
        ("PUT", f"/api/v1/contacts/{CONTACT}"),
        ("PUT", "/api/v1/identities/x/contact"),
    ):
        answer = doors.http.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 400, 404, 409}, (path, answer.text)


nouns = st.sampled_from(["visits", "identities", "sessions", "pages", "events", "contacts"])
ids = st.binary(max_size=20) | known.map(str.encode)
parameters = st.sampled_from(
    ["page_size", "page_start", "page_token", "from", "to", "order", "site", "event_type", "association", "url",
     "include_visits", "include_events", "location", "user_agent", "state", "start_time", "end_time", "sort"]
)  # fmt: skip
cursors = st.builds("{}#{}#{}".format, texts, st.integers(), st.just(VISIT) | texts)
queries = st.lists(st.tuples(parameters, texts | cursors | st.integers().map(str)), max_size=4).map(urlencode) | (
    st.binary(max_size=40).map(lambda raw: quote_from_bytes(raw, "=&%+"))
)


@bounded
@given(noun=nouns, name=ids, inner=st.just("") | nouns | ids.map(quote_from_bytes), query=queries)
@example(noun="visits", name=VISIT.encode(), inner="events", query=f"page_start={VISIT}%23{'9' * 15}%23{'-' * 36}")
def test_paths_and_parameters(doors: Doors, noun: str, name: bytes, inner: str, query: str) -> None:
    for prefix in ("/server/data", "/api/v1"):
        path = f"{prefix}/{noun}/{quote_from_bytes(name, '')}{inner and '/'}{inner}?{query}"
        answer = doors.http.get(httpx.URL(str(doors.http.base_url), raw_path=path.encode()))
        assert answer.status_code in {200, 204, 400, 404, 405}, (path, answer.text)


def ask(doors: Doors, service: str, method: MethodDescriptor, request: bytes) -> None:
    """Call a method with a message as it is sent. Fails the test when the answer is a fault of the server's."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = "unary_stream" if method.server_streaming else "unary_unary"
    call: Any = getattr(doors.channels[service], kind)(path)
    try:
        if method.server_streaming:
            next(call(request, timeout=STREAM_S), None)
        else:
            call(request, timeout=30)
    except grpc.RpcError as error:
        if error.code() in FAULTS:
            pytest.fail(f"{method.name}: {error.code()} {error.details()}")


@pytest.mark.parametrize(("service", "method"), METHODS, ids=[f"{name}-{method.name}" for name, method in METHODS])
@bounded
@given(data=st.data())
def test_messages(doors: Doors, service: str, method: MethodDescriptor, data: st.DataObject) -> None:
    request = data.draw(st.binary(max_size=60) | serialized(method.input_type, texts))
    ask(doors, service, method, request)


def test_what_was_found_stays_found(doors: Doors) -> None:
    visitors = identity.ListVisitorsRequest(page_size=1)
    visitors.page_token = paging.encode("no position", paging.fingerprint(visitors))
    links = identity.ListContactLinksRequest(identity_id=PERSON)
    links.page_token = paging.encode("-1", paging.fingerprint(links))
    late = history.ListVisitsRequest(identity_id=PERSON)
    late.scope.start_time.seconds = 2**62
    for service, method, request, field in (
        ("identity", "ListVisitors", visitors, "page_token"),
        ("identity", "ListContactLinks", links, "page_token"),
        ("history", "ListVisits", late, "scope.start_time"),
    ):
        call: Any = doors.channels[service].unary_unary(f"/{SERVICES[service].full_name}/{method}")
        with pytest.raises(grpc.RpcError, match=f"INVALID_ARGUMENT\n.*{field}: must be"):
            call(request.SerializeToString(), timeout=30)


TOKENS = [(name, method) for name, method in METHODS if "page_token" in method.input_type.fields_by_name]


@pytest.mark.parametrize(("service", "method"), TOKENS, ids=[f"{name}-{method.name}" for name, method in TOKENS])
@settings(bounded, max_examples=max(1, EXAMPLES // 2))
@given(position=texts | st.builds("{}-{}".format, st.integers(), texts), about=known)
def test_page_tokens_that_were_made_up(
    doors: Doors, service: str, method: MethodDescriptor, position: str, about: str
) -> None:
    request: Any = GetMessageClass(method.input_type)(page_size=1)
    for name, field in method.input_type.fields_by_name.items():
        if name.endswith("_id") and field.type == field.TYPE_STRING:
            setattr(request, name, about)
    request.page_token = paging.encode(position, paging.fingerprint(request))
    ask(doors, service, method, request.SerializeToString())
