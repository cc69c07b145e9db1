"""Personal data goes through every door of the suite, well and badly formed, and is in no log line and no metric."""

import asyncio
import base64
import json
import random
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import grpc
import httpx
import jwt
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, new_id, now_ms

SERVICES = {
    "collector": collector.DESCRIPTOR.services_by_name["CollectorService"],
    "identity": identity.DESCRIPTOR.services_by_name["IdentityService"],
    "history": history.DESCRIPTOR.services_by_name["HistoryService"],
}
STREAM_S = 0.2


class Person(NamedTuple):
    """Made up for each run, so that a search finds only this person."""

    email: str
    phone: str
    card: str
    password: str
    token: str
    signed: str
    first_name: str
    last_name: str
    street: str
    user_agent: str
    address: str
    visit_id: str
    device_id: str
    contact_id: str


@pytest.fixture(scope="module")
def person() -> Person:
    mark, chance = uuid.uuid4().hex[:10], random.SystemRandom()
    digits = f"4{chance.randrange(10**14):014}"
    doubled = sum(sum(divmod(int(digit) * 2, 10)) for digit in digits[::2])
    check = -(doubled + sum(map(int, digits[1::2]))) % 10
    return Person(
        email=f"dana.{mark}@example.com",
        phone=f"+4915{chance.randrange(10**9):09}",
        card=f"{digits}{check}",
        password=f"hunter2-{mark}",
        token=f"tok-{mark}",
        signed=jwt.encode({"sub": mark}, mark * 4, algorithm="HS256"),
        first_name=f"Zephyrine{mark}",
        last_name=f"Quillfeather{mark}",
        street=f"{mark} Elm Street",
        user_agent=f"Browser-{mark}/1.0",
        address=f"203.0.{chance.randrange(100, 256)}.{chance.randrange(100, 256)}",
        visit_id=str(uuid.uuid4()),
        device_id=str(uuid.uuid4()),
        contact_id=f"contact-{mark}",
    )


@pytest.fixture
async def http(suite: Suite, person: Person) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        headers = {
            "User-Agent": person.user_agent,
            "X-Forwarded-For": person.address,
            "X-Request-Id": person.email,
            "Cookie": f"_gt_gvid={person.device_id}; name={person.first_name}",
            "Referer": f"https://shop.example/?token={person.token}",
        }
        client.headers.update(headers)
        yield client


def told(person: Person) -> dict[str, Any]:
    """All of it, as the data of an event."""
    secret = {"password": person.password, "card": person.card, "jwt": person.signed, "street": person.street}
    return {
        "email": person.email,
        "phone": person.phone,
        "firstName": person.first_name,
        "lastName": person.last_name,
        "token": person.signed,
        "more": [secret],
    }


def url(person: Person) -> str:
    pairs = f"email={person.email}&token={person.token}&password={person.password}&card={person.card}&j={person.signed}"
    return f"https://shop.example/{person.first_name}?{pairs}"


async def test_personal_data_is_in_no_log_line_and_no_metric(
    suite: Suite, http: httpx.AsyncClient, person: Person
) -> None:
    logs = {log: log.stat().st_size for log in suite.data_dir.glob("log/*.log")}
    await report(http, person)
    await ask(http, person)
    await send_garbage(suite, http, person)
    for service, descriptor in SERVICES.items():
        async with suite.channel(service) as channel:
            for method in descriptor.methods:
                await call(channel, method, person)
    erased = await http.delete(f"/api/v1/identities/{quote(person.email)}")
    assert erased.status_code == 200

    def written() -> bytes:
        return b"".join(log.read_bytes()[size:] for log, size in logs.items())

    # The last of it has been logged when the erasure has.
    await eventually(lambda: b"eraseIdentity" in written())
    metrics = [(await http.get(address)).content for address in suite.metrics_urls()]
    assert all(b"# HELP" in text for text in metrics)
    everything = b"\n".join([written(), *metrics])
    for operation in ("exportIdentity", "putContact", "Collect", "ResolveEvents", "StreamEvents", "ListContactLinks"):
        assert operation.encode() in everything
    assert [secret for secret in forms(person) if secret in everything] == []


def forms(person: Person) -> Iterator[bytes]:
    """Each of it as it is, and as it may have been written on the way."""
    for secret in (*person, person.phone.removeprefix("+"), person.visit_id.replace("-", ""), person.visit_id.upper()):
        yield from {secret.encode(), quote(secret, safe="").encode(), base64.b64encode(secret.encode())}


async def report(http: httpx.AsyncClient, person: Person) -> None:
    """By beacon, pixel and POST: what is stored, and what is refused."""
    about: dict[str, Any] = {"url": url(person), "globalVisitID": person.device_id, "data": told(person)}
    visit = person.visit_id
    names = ["VisitStarted", "PageEntered", "UserInfo", "SignIn"]
    events = [event(name, visit, now_ms() + at, person.email, **about) for at, name in enumerate(names)]
    wrong = [
        event("PageEntered", person.email, now_ms(), **about),
        event("PageEntered", visit, now_ms(), **about | {"url": url(person) * 100}),
        event("PageEntered", visit, now_ms(), eventID=person.email, **about),
        event("PageEntered", visit, now_ms(), **about) | {"timestamp": person.phone, "eventType": person.card},
        event(person.email * 20, visit, now_ms(), category=person.street * 99, **about),
        event("SignIn", visit, now_ms(), **about) | {"data": {"userID": [person.email]}},
        event("PageEntered", visit, now_ms(), site=person.email, **about),
        event("PageEntered", visit, 1, **about),
    ]
    assert (await http.post("/beacon", json=events)).status_code == 204
    refused = await http.post("/beacon", json={"events": wrong, "sentAt": now_ms()})
    assert refused.status_code == 400
    assert len(refused.json()["rejected"]) == len(wrong)
    packed = base64.urlsafe_b64encode(json.dumps(events[1] | {"eventID": new_id()}).encode()).decode()
    assert (await http.get("/beacon.gif", params={"e": packed})).status_code == 200
    assert (await http.post("/beacon", content=json.dumps(events)[:-9].encode())).status_code in {400, 415}
    made = {"userAgent": person.user_agent, "visitId": visit, "globalVisitID": person.device_id}
    assert (await http.post("/server/data/visits", json=made)).status_code == 200
    posted = await http.post(f"/server/data/visits/{visit}/events", json=event("Posted", visit, now_ms(), **about))
    assert posted.status_code == 200
    assert (await http.post(f"/server/data/visits/{visit}/events", json={"url": [url(person)]})).status_code == 400


async def ask(http: httpx.AsyncClient, person: Person) -> None:
    """By every route that takes a name or a filter."""
    who, contact = f"/server/data/identities/{quote(person.email)}", f"/api/v1/contacts/{person.contact_id}"

    async def is_known() -> bool:
        return (await http.get(f"{who}/events")).status_code == 200

    await eventually(is_known)
    good = {"emailAddresses": [person.email], "phoneNumbers": [person.phone], "firstName": person.first_name}
    assert (await http.put(contact, json=good | {"lastName": person.last_name})).status_code == 200
    assert (await http.put(contact, json={"emailAddresses": [person.street]})).status_code == 400
    assert (await http.put(contact, json={"firstName": [person.first_name]})).status_code == 400
    link = {"contactId": person.contact_id, "actor": person.last_name}
    assert (await http.put(f"/api/v1/identities/{quote(person.email)}/contact", json=link)).status_code == 200
    found = [
        contact,
        f"{contact}/person",
        f"/api/v1/identities/{quote(person.email)}/links",
        f"/api/v1/identities/{quote(person.email)}/export",
        f"/api/v1/visits/{person.visit_id}/visitor",
        f"/api/v1/visits/{person.visit_id}/explain",
        f"{who}?include_events=true",
        f"{who}/visits",
        f"/server/data/visits/{person.visit_id}/userAgent",
    ]
    for path in found:
        assert (await http.get(path)).status_code == 200, path
    filters = {"url": url(person), "user_agent": person.user_agent, "location": person.street, "site": person.email}
    for path in ("/server/data/identities", f"{who}/events", f"{who}/pages", "/api/v1/visitors", "/nothing/here"):
        for more in ({}, {"page_start": person.email}, {"page_token": person.email}, {"page_size": person.phone}):
            assert (await http.get(path, params=filters | more)).status_code < 500
    for missing in (person.phone, person.street):
        assert (await http.get(f"/server/data/identities/{quote(missing)}")).status_code == 404


async def send_garbage(suite: Suite, http: httpx.AsyncClient, person: Person) -> None:
    """What is no request, or has the wrong credentials."""
    assert (await http.get("/server/data/visits/x", auth=(person.email, person.password))).status_code == 401
    bearer = {"Authorization": f"Bearer {person.signed}"}
    async with suite.http(auth=None) as stranger:
        assert (await stranger.get("/server/data/visits/x", headers=bearer)).status_code == 401
    for address in (suite.url, *suite.targets.values()):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(f"POST /{person.email} HTTP/1.1\r\n{person.first_name}\r\nX: {url(person)}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()


async def call(channel: grpc.aio.Channel, method: Any, person: Person) -> None:
    """Call an RPC with requests and metadata that are full of the person, well formed and not."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    values = {
        "visit_id": person.visit_id,
        "contact_id": person.contact_id,
        "user_agent": person.user_agent,
        "url": url(person),
        "address": person.address,
        "first_name": person.first_name,
        "phone_numbers": person.phone,
    }
    good = filled(method.input_type, values, person, depth=4)
    metadata = (("x-request-id", person.email), ("authorization", person.signed))
    for request in (good, json.dumps(told(person)).encode(), url(person).encode()):
        try:
            if method.server_streaming:
                streamed: Any = channel.unary_stream(path)(request, timeout=STREAM_S, metadata=metadata)  # type: ignore[arg-type]
                await streamed.read()
            else:
                await channel.unary_unary(path)(request, timeout=10, metadata=metadata)  # type: ignore[arg-type]
        except grpc.aio.AioRpcError as error:
            assert not re.search("INTERNAL|UNKNOWN", error.code().name), method.name  # noqa: PT017 - most are refused


def filled(descriptor: Descriptor, values: dict[str, str], person: Person, depth: int) -> bytes:
    return bytes(_message(descriptor, values, person, depth).SerializeToString())


def _message(descriptor: Any, values: dict[str, str], person: Person, depth: int) -> Any:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if field.message_type and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[person.email] = person.phone
            continue
        if field.type == field.TYPE_MESSAGE:
            if not depth:
                continue
            value = _message(field.message_type, values, person, depth - 1)
        elif field.type == field.TYPE_STRING:
            value = values.get(field.name, person.email)
        elif field.type == field.TYPE_BYTES:
            value = json.dumps(told(person)).encode()
        else:
            continue
        if field.is_repeated:
            getattr(message, field.name).append(value)
        elif field.type == field.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message
