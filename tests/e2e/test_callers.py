"""Callers that show API keys or certificates: they see their sites, and log lines say who they are."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.keys import KeyScope
from footfall_servicekit.errors import details_of

from tests.tools.contacts import imported
from tests.tools.eventually import eventually
from tests.tools.keys import new_key
from tests.tools.sites import SITES
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, now_ms

Metadata = tuple[tuple[str, str], ...]
SEEN = ["OK", "NOT_FOUND", "PERMISSION_DENIED"]
"""The codes of what a client of one site asks history."""


class Named(NamedTuple):
    """A suite whose callers have names, and the file of their keys."""

    suite: Suite
    keys: Path
    token: Path
    """Of the suite's own processes."""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    folder = tmp_path_factory.mktemp("keys")
    keys, token, sites = folder / "keys.json", folder / "token", folder / "sites.toml"
    sites.write_text(SITES)
    token.write_text(new_key(keys, "suite", KeyScope))
    settings = {"GRPC_KEYS_FILE": str(keys), "GRPC_TOKEN_FILE": str(token), "GATEWAY_KEYS_FILE": str(keys)}
    settings["SITES_FILE"] = str(sites)
    with running_suite(tmp_path_factory.mktemp("named"), settings, is_mutual_tls=False) as suite:
        yield Named(suite, keys, token)


def shown(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def lines(suite: Suite, program: str, caller: str) -> list[dict[str, Any]]:
    """The lines of calls by a caller that begins so."""
    found = map(json.loads, (suite.data_dir / "log" / f"{program}.log").read_text().splitlines())
    return [line for line in found if line["event"] == "rpc" and line.get("caller", "").startswith(caller)]


async def visits_of_two_sites(suite: Suite) -> dict[str, str]:
    """The ids of two visits, by site."""
    visits = {site: str(uuid.uuid4()) for site in ("shop", "bank")}
    async with suite.http() as http:
        for site, visit_id in visits.items():
            beacon = event("SignIn", visit_id, now_ms(), f"dana-{site}") | {"site": site}
            assert (await http.post("/beacon", json=beacon)).status_code == 204
        assert (await http.get("/server/data/identities")).status_code in {200, 204}  # 204 until history has read them
    return visits


async def stored(channel: grpc.aio.Channel, visits: dict[str, str], metadata: Metadata = ()) -> None:
    """Wait until who sees all sites sees all visits."""
    stub = HistoryServiceStub(channel)

    async def listed() -> None:
        answer = await stub.ListVisits(history.ListVisitsRequest(), metadata=metadata, timeout=10)
        assert {visit.visit_id for visit in answer.visits} == {*visits.values()}

    await eventually(listed, timeout=20)


async def sees_the_shop_alone(
    channel: grpc.aio.Channel, live: grpc.aio.Channel, visits: dict[str, str], metadata: Metadata = ()
) -> None:
    """A client of the site `shop`, on channels to history and identity."""
    stub = HistoryServiceStub(channel)
    answer = await stub.ListVisits(history.ListVisitsRequest(), metadata=metadata, timeout=10)
    assert {visit.visit_id for visit in answer.visits} == {visits["shop"]}
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.GetVisit(history.GetVisitRequest(visit_id=visits["bank"]), metadata=metadata, timeout=10)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    asked = history.GetVisitRequest(visit_id=visits["bank"], sites=["bank"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetVisit(asked, metadata=metadata, timeout=10)
    assert details_of(refused.value).reason == "SITE_NOT_ALLOWED"
    visitors = await IdentityServiceStub(live).ListVisitors(
        identity.ListVisitorsRequest(), metadata=metadata, timeout=10
    )
    assert {each.visit_id for each in visitors.visitors} == {visits["shop"]}


async def test_services_call_each_other_and_a_key_sees_its_site_over_grpc_as_over_http(named: Named) -> None:
    visits = await visits_of_two_sites(named.suite)
    everything = new_key(named.keys, "audit", [KeyScope.READ])
    token = new_key(named.keys, "desk", [KeyScope.READ], ["shop"])
    async with named.suite.channel("history") as channel, named.suite.channel("identity") as live:
        await stored(channel, visits, shown(everything))
        await sees_the_shop_alone(channel, live, visits, shown(token))
    assert [line["code"] for line in lines(named.suite, "history", "desk (")] == SEEN
    assert lines(named.suite, "identity", "suite ("), "the gateway asked too"


@pytest.mark.long
async def test_the_role_in_a_certificate_sees_its_site_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    (sites := tmp_path_factory.mktemp("sites") / "sites.toml").write_text(SITES)
    roles = [f"{name}={name}" for name in ("gateway", "collector", "identity", "history")]
    settings = {"SITES_FILE": str(sites), "GRPC_CLIENT_ROLES": ",".join([*roles, "desk=contact-center/shop"])}
    with running_suite(tmp_path_factory.mktemp("roles"), settings, is_mutual_tls=True) as suite:
        visits = await visits_of_two_sites(suite)
        async with suite.channel("history") as channel:
            await stored(channel, visits)
        credentials = suite.channel_credentials("desk")
        async with (
            grpc.aio.secure_channel(suite.targets["history"], credentials) as channel,
            grpc.aio.secure_channel(suite.targets["identity"], credentials) as live,
        ):
            await sees_the_shop_alone(channel, live, visits)
        assert [line["code"] for line in lines(suite, "history", "desk")] == SEEN
        assert lines(suite, "identity", "gateway")


async def test_without_a_key_no_call_is_answered_and_commands_show_theirs(named: Named) -> None:
    async with named.suite.channel("identity") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await IdentityServiceStub(channel).ListVisitors(identity.ListVisitorsRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert details_of(refused.value).reason == "KEY_NOT_VALID"
    target, contact = named.suite.targets["identity"], b"ContactId,FirstName\nnamed,Ann\n"
    without = await imported(target, "-", given=contact)
    assert without.code == 1
    assert "UNAUTHENTICATED" in without.complained
    assert (await imported(target, "-", given=contact, GRPC_TOKEN_FILE=named.token)).code == 0
