"""The suite on HTTPS and mutual TLS: who is answered, what each role may call, and certificates that change.

FOOTFALL_MUTUAL_TLS=1 runs every test against a suite like this one.
"""

import asyncio
import json
import shutil
import ssl
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.event.v1.interaction_pb2 import INTERACTION_CHANNEL_VOICE
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.errors import details_of
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from deploy.certificates import Authority
from tests.e2e.test_erasure import places_of, verified
from tests.tools.batches import batch, context, message
from tests.tools.contact_center_stubs import ContactCenter, contact_center, stored_visit
from tests.tools.contacts import imported
from tests.tools.eventually import eventually
from tests.tools.sites import send
from tests.tools.suite import PROGRAMS, Suite, mutual_tls, running_suite
from tests.tools.visits import event, now_ms

SERVICES = {"collector": collector, "identity": identity, "history": history}
METHODS: list[tuple[str, MethodDescriptor]] = [
    (name, method)
    for name, contract in SERVICES.items()
    for service in contract.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
PEOPLE = {"gateway", "contact-center"}
"""Roles that ask on somebody's behalf: they may call what is not in the next table."""
ALLOWED = {
    "Collect": {"gateway"},
    "ResolveEvents": {"collector"},
    "GetVisit": {"collector", *PEOPLE},
    "ExplainVisit": {"identity", *PEOPLE},
    "BatchGetIdentities": {"history", "relay", *PEOPLE},
    "BatchGetNames": {"history", *PEOPLE},
    "GetPerson": {"history", *PEOPLE},
    "GetVisitor": {"collector", "history", *PEOPLE},
    "CountLinks": {"history"},
    "JudgeLinks": {"history"},
    "GetCustomer": {"history"},
    "ImportIdentities": {"history"},
    "CreateVisitCode": {"gateway"},
    "EraseIdentity": {"gateway"},
    "ListDeadLetters": {"gateway"},
    "ReplayDeadLetters": {"gateway"},
    "RepairDeadLetter": {"gateway"},
    "StreamLiveVisits": {"identity"},
    "StreamAttributions": {"relay"},
}
ROLES = ["gateway", "collector", "identity", "history", "relay", "contact-center", "stranger"]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with running_suite(tmp_path_factory.mktemp("secured"), is_mutual_tls=True) as suite:
        yield suite


async def expect_first_visit_seen(suite: Suite) -> None:
    """Every call between two programs is made: also the collector's on identity, and history's on identity."""
    visit_id, mark = str(uuid.uuid4()), uuid.uuid4().hex
    email = f"{mark}@mail.example"
    async with suite.http() as http:
        assert (await http.put(f"/api/v1/contacts/{mark}", json={"emailAddresses": [email]})).status_code == 200
        answer = await http.post("/beacon", json=event("SignIn", visit_id, now_ms(), email))
        assert answer.status_code == 204, answer.text
        assert answer.headers["strict-transport-security"]
        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
        assert visitor["state"] == "AUTHENTICATED"

        async def stored() -> None:
            answer = await http.get(f"/server/data/visits/{visit_id}/identities")
            assert answer.status_code == 200
            assert [one["entityInCS"] for one in answer.json()] == [mark]

        await eventually(stored)


async def test_a_first_visit_by_https_is_seen_in_history(secured: Suite) -> None:
    assert secured.url.startswith("https:")
    await expect_first_visit_seen(secured)


async def health_of(channel: grpc.aio.Channel) -> None:
    """Raises AioRpcError unless the server answers a health check, which is for every role."""
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)


async def outcome(channel: grpc.aio.Channel, method: MethodDescriptor, timeout_s: float) -> tuple[grpc.StatusCode, str]:
    """How a call with an empty message ends, or what its first answer says; and the reason given."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    call: Any = (channel.unary_stream if method.server_streaming else channel.unary_unary)(path)
    try:
        if method.server_streaming:
            await call(b"", timeout=timeout_s).read()
        else:
            await call(b"", timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code(), details_of(error).reason
    return grpc.StatusCode.OK, ""


async def test_without_a_certificate_of_the_authority_no_rpc_answers(secured: Suite, tmp_path: Path) -> None:
    assert secured.authority
    ours = secured.authority.file.read_bytes()
    certificate, key = Authority(tmp_path).issue("gateway")  # of an authority that is not trusted here
    strangers = [
        grpc.ssl_channel_credentials(ours),
        grpc.ssl_channel_credentials(ours, key.read_bytes(), certificate.read_bytes()),
    ]
    for service, target in secured.targets.items():
        health = grpc.aio.insecure_channel(target), *(grpc.aio.secure_channel(target, one) for one in strangers)
        for channel in health:
            async with channel:
                for name, method in METHODS:
                    if name == service:
                        assert (await outcome(channel, method, 10))[0] == grpc.StatusCode.UNAVAILABLE
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await health_of(channel)
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_call_what_is_its_own_and_nothing_else(secured: Suite, role: str) -> None:
    denied = (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")
    credentials = secured.channel_credentials(role)
    for service, target in secured.targets.items():
        async with grpc.aio.secure_channel(target, credentials) as channel:
            await health_of(channel)

            async def call(method: MethodDescriptor, channel: grpc.aio.Channel = channel) -> None:
                if role in ALLOWED.get(method.name, PEOPLE):
                    # Streams without an end are cut off.
                    assert await outcome(channel, method, 0.5 if method.server_streaming else 10) != denied
                else:
                    assert await outcome(channel, method, 10) == denied

            await asyncio.gather(*(call(method) for name, method in METHODS if name == service))


async def test_a_call_begins_changes_ends_and_is_sent_again_and_goes_with_the_person(
    secured: Suite,
) -> None:
    mark, visit = uuid.uuid4().hex, str(uuid.uuid4())
    person, contact, call, started = f"{mark}@mail.example", f"contact-{mark}", f"call-{mark}", now_ms() - 40 * 60_000
    async with secured.http() as http, contact_center(secured) as center:
        assert (await http.put(f"/api/v1/contacts/{contact}", json={"emailAddresses": [person]})).status_code == 200
        # The visit has ended before the call begins.
        await send(http, event("SignIn", visit, started, person), event("PageEntered", visit, started + 1))
        before = await stored_visit(center, visit, contact)

        begun = {
            "visit_id": visit,
            "channel": INTERACTION_CHANNEL_VOICE,
            "agent": f"anna-{mark}",
            "start_time": now_ms() - 5_000,
        }
        await center.report(call, now_ms() - 5_000, **begun)
        secured.kill("history")  # it reads the updates when it is back
        await center.report(call, now_ms() - 3_000, visit_id=visit, queue="sales", note=f"first {mark}")
        last_ms = now_ms() - 1_000
        ended = {"visit_id": visit, "end_time": last_ms, "disposition": "solved", "note": f"last {mark}"}
        await center.report(call, last_ms, **ended)
        for again in (ended, begun):
            await center.report(call, last_ms if again is ended else now_ms() - 6_000, **again)

        async def complete() -> None:
            [found] = await center.listed(visit_id=visit)
            assert (found.interaction_id, found.visit_identity_id, found.agent) == (call, person, f"anna-{mark}")
            assert (found.queue, found.disposition, found.note) == ("sales", "solved", f"last {mark}")
            assert found.channel == INTERACTION_CHANNEL_VOICE
            assert (found.end_time.ToMilliseconds(), found.update_time.ToMilliseconds()) == (last_ms, last_ms)

        await eventually(complete, timeout=30)
        everywhere = partial(expect_found_everywhere, center, http, visit, person=person, contact=contact, call=call)
        await eventually(everywhere)  # the gateway has to connect to history again
        assert await center.seen(visit) == before
        assert (await http.get(f"/api/v1/visits/{visit}/interactions")).json()["interactions"][0]["endTime"] == last_ms

        # What names only the contact goes with the person, too.
        await center.report(f"mail-{mark}", now_ms(), contact_id=contact, note=f"mail {mark}")
        await eventually(lambda: center.has_listed(2, contact_id=contact))
        assert set(await exported(http, person)) == {call, f"mail-{mark}"}
        assert (await http.delete(f"/api/v1/identities/{person}")).json()["interactions"] == 2
        assert (await http.delete(f"/api/v1/contacts/{contact}")).status_code == 204
        assert await center.listed(agent=f"anna-{mark}") == []
        assert (await http.get(f"/api/v1/visits/{visit}/interactions")).json()["interactions"] == []
        assert (await http.get(f"/api/v1/interactions/{call}")).status_code == 404
        # A report that arrives late does not bring them back.
        await center.report(call, last_ms + 1, **ended, start_time=last_ms - 4_000)
        await center.report(f"chat-{mark}", now_ms(), phone="+4930901820")
        await eventually(lambda: center.has_listed(1, phone="+49 30 901820"))
        assert await places_of(secured, [mark]) <= {"interactions"}
        assert [one.note for one in await center.listed(visit_id=visit)] == []
        assert (await verified(secured, person))[0] == 0


async def expect_found_everywhere(
    center: ContactCenter, http: httpx.AsyncClient, visit: str, *, person: str, contact: str, call: str
) -> None:
    """One interaction: by each way of asking for it."""
    for about in ({"identity_id": person}, {"contact_id": contact}):
        assert [one.interaction_id for one in await center.listed(**about)] == [call]
    asked = history.GetCustomerContextRequest
    for customer in (asked(identity_id=person), asked(contact_id=contact), asked(visit_id=visit)):
        context = await center.history.GetCustomerContext(customer, timeout=10)
        assert [one.interaction_id for one in context.interactions] == [call], customer
    for path in (
        f"/api/v1/interactions?identityId={person}",
        f"/api/v1/contacts/{contact}/person",
        f"/api/v1/context?visitId={visit}",
    ):
        answer = await http.get(path)
        assert answer.status_code == 200, answer.text
        assert [one["interactionId"] for one in answer.json()["interactions"]] == [call], path
    one = (await http.get(f"/api/v1/interactions/{call}")).json()
    assert (one["visitId"], one["identityId"], one["channel"]) == (visit, person, "VOICE")
    assert await exported(http, person) == [call]


async def exported(http: httpx.AsyncClient, person: str) -> list[str]:
    lines = (await http.get(f"/api/v1/identities/{person}/export")).text.splitlines()
    found = [json.loads(line).get("interaction") for line in lines]
    return [one["interactionId"] for one in found if one]


@pytest.mark.parametrize(
    ("role", "code", "complaint"),
    [("contact-center", 0, ""), ("history", 1, "The import has stopped; run it again later. PERMISSION_DENIED")],
)
async def test_contacts_are_imported_by_who_may_write_them(
    secured: Suite, role: str, code: int, complaint: str
) -> None:
    assert secured.authority
    certificate, key = secured.authority.issue(f"import-{role}", [x509.DNSName(role)])
    ended = await imported(
        secured.targets["identity"],
        "-",
        given=b"ContactId,FirstName\nimported,Ann\n",
        GRPC_TLS_CA_FILE=secured.authority.file,
        CONTACTS_GRPC_TLS_CERT_FILE=certificate,
        CONTACTS_GRPC_TLS_KEY_FILE=key,
    )
    assert ended.code == code
    assert ended.complained.startswith(complaint)


async def test_a_gateway_is_believed_when_it_says_that_a_beacon_arrived_hours_ago(secured: Suite) -> None:
    visit_id, hours_ago = str(uuid.uuid4()), now_ms() - 3 * 3_600_000
    one = message("PageEntered", visit_id=visit_id, timestamp_ms=hours_ago)
    sent = batch(one, contexts=[context(received_time_ms=hours_ago)])
    async with grpc.aio.secure_channel(secured.targets["collector"], secured.channel_credentials("gateway")) as channel:
        answer = await CollectorServiceStub(channel).Collect(collector.CollectRequest(batch=sent), timeout=10)
        assert answer.stored_count == 1
    channel = grpc.aio.secure_channel(secured.targets["history"], secured.channel_credentials("gateway"))
    async with channel:

        async def stored() -> None:
            request = history.ListEventsRequest(visit_id=visit_id)
            answer = await HistoryServiceStub(channel).ListEvents(request, timeout=10)
            assert [each.received_time.ToMilliseconds() for each in answer.events] == [hours_ago]

        await eventually(stored, timeout=20)


async def test_changed_certificates_and_authorities_are_taken_up_without_a_restart(
    secured: Suite, tmp_path: Path
) -> None:
    before = secured.authority
    assert before
    pids = {program: secured.pid(program) for program in PROGRAMS}
    after = Authority(tmp_path / "new")
    mutual_tls(after)
    old_authority = before.file.read_bytes()
    async with secured.http() as connected, secured.channel("identity") as channel:
        assert (await connected.get("/healthz")).status_code == 200
        watching = IdentityServiceStub(channel).WatchVisitors(identity.WatchVisitorsRequest())

        # First everybody believes both authorities, then has a certificate of the new one, then believes it alone.
        before.file.write_bytes(old_authority + after.file.read_bytes())
        await expect_first_visit_seen(secured)
        await asyncio.wait_for(watching.read(), 10)
        for file in after.file.parent.glob("*/tls.*"):
            shutil.copy(file, before.file.parent / file.parent.name)
        before.file.write_bytes(after.file.read_bytes())

        context = ssl.create_default_context(cafile=after.file)
        port = int(secured.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.close()
        pair = [file.read_bytes() for file in reversed(after.issue("gateway"))]
        credentials = grpc.ssl_channel_credentials(after.file.read_bytes(), *pair)
        for target in secured.targets.values():
            async with grpc.aio.secure_channel(target, credentials) as renewed:
                await health_of(renewed)

        assert (await connected.get("/healthz")).status_code == 200  # on the connection from before
        assert not watching.done()
        assert {program: secured.pid(program) for program in PROGRAMS} == pids

    # Those that start now have never heard of the old authority: who calls them has taken up the new one.
    for program in ("collector", "identity", "history"):
        secured.kill(program)

    async def is_ready() -> bool:
        async with secured.http() as http:
            return (await http.get("/readyz")).status_code == 200

    await eventually(is_ready, timeout=60)
    await expect_first_visit_seen(secured)
    assert secured.pid("gateway") == pids["gateway"]
