"""The suite on HTTPS and mutual TLS: who is answered, what each role may call, and certificates that change.

FOOTFALL_MUTUAL_TLS=1 runs every test against a suite like this one.
"""

import asyncio
import shutil
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceStub
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.errors import details_of
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from deploy.certificates import Authority
from tests.tools.batches import batch, context, message
from tests.tools.contacts import imported
from tests.tools.eventually import eventually
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
    "BatchGetIdentities": {"history", *PEOPLE},
    "ImportIdentities": {"history"},
    "EraseIdentity": {"gateway"},
}
ROLES = ["gateway", "collector", "history", "contact-center", "stranger"]


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
