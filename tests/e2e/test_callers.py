"""A suite without certificates whose callers show API keys: they see their sites, and log lines say who they are."""

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


def shown(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def lines(suite: Suite, program: str, name: str) -> list[dict[str, Any]]:
    """The lines of calls by a caller of this name."""
    found = map(json.loads, (suite.data_dir / "log" / f"{program}.log").read_text().splitlines())
    return [line for line in found if line["event"] == "rpc" and line.get("caller", "").startswith(f"{name} (")]


async def test_services_call_each_other_and_a_key_sees_its_site_over_grpc_as_over_http(named: Named) -> None:
    visits = {site: str(uuid.uuid4()) for site in ("shop", "bank")}
    async with named.suite.http() as http:
        for site, visit_id in visits.items():
            beacon = event("SignIn", visit_id, now_ms(), f"dana-{site}") | {"site": site}
            assert (await http.post("/beacon", json=beacon)).status_code == 204
        assert (await http.get("/server/data/identities")).status_code == 200
    everything = new_key(named.keys, "audit", [KeyScope.READ])
    token = new_key(named.keys, "desk", [KeyScope.READ], ["shop"])
    async with named.suite.channel("history") as channel, named.suite.channel("identity") as live:
        stub = HistoryServiceStub(channel)

        async def stored() -> None:
            answer = await stub.ListVisits(history.ListVisitsRequest(), metadata=shown(everything), timeout=10)
            assert {visit.visit_id for visit in answer.visits} == {*visits.values()}

        await eventually(stored, timeout=20)
        answer = await stub.ListVisits(history.ListVisitsRequest(), metadata=shown(token), timeout=10)
        assert {visit.visit_id for visit in answer.visits} == {visits["shop"]}
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.GetVisit(history.GetVisitRequest(visit_id=visits["bank"]), metadata=shown(token), timeout=10)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        asked = history.GetVisitRequest(visit_id=visits["bank"], sites=["bank"])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetVisit(asked, metadata=shown(token), timeout=10)
        assert details_of(refused.value).reason == "SITE_NOT_ALLOWED"
        visitors = await IdentityServiceStub(live).ListVisitors(
            identity.ListVisitorsRequest(), metadata=shown(token), timeout=10
        )
        assert {each.visit_id for each in visitors.visitors} == {visits["shop"]}
    assert [line["code"] for line in lines(named.suite, "history", "desk")] == ["OK", "NOT_FOUND", "PERMISSION_DENIED"]
    assert lines(named.suite, "identity", "suite"), "the gateway asked too"


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
