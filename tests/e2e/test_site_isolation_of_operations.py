"""Every operation of the gateway and every RPC, asked by each of two sites: what each may see stands in these lists."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import grpc
import httpx
import pytest
from footfall.history.v1 import history_service_pb2 as history
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.settings import DAY_MS
from footfall_timeline import page_id, scoped_visit_id, session_id
from google.protobuf.json_format import MessageToJson, ParseDict

from tests.tools.eventually import eventually
from tests.tools.scorecards import day_of_ms, recount, send_past
from tests.tools.sites import client_of, running_suite_of_sites, send
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

DATA, V1 = "/server/data", "/api/v1"

SEEN: dict[str, str] = {
    "getIdentity": f"GET {DATA}/identities/{{person}}?include_visits=true&include_visits_detail=true",
    "listIdentityVisits": f"GET {DATA}/identities/{{person}}/visits?include_events=true&include_events_detail=true",
    "listIdentityEvents": f"GET {DATA}/identities/{{person}}/events",
    "listIdentityPages": f"GET {DATA}/identities/{{person}}/pages",
    "listIdentitySessions": f"GET {DATA}/identities/{{person}}/sessions",
    "getVisit": f"GET {DATA}/visits/{{visit}}?include_events=true&include_events_detail=true&include_sessions=true",
    "listVisits": f"GET {DATA}/visits?page_size=1000&include_events=true&include_events_detail=true",
    "getVisitUserAgent": f"GET {DATA}/visits/{{visit}}/userAgent",
    "listVisitIdentities": f"GET {DATA}/visits/{{visit}}/identities?include_visits=true&include_events=true",
    "listVisitEvents": f"GET {DATA}/visits/{{visit}}/events",
    "listVisitPages": f"GET {DATA}/visits/{{visit}}/pages",
    "listVisitSessions": f"GET {DATA}/visits/{{visit}}/sessions",
    "getSession": f"GET {DATA}/sessions/{{session}}",
    "listSessionEvents": f"GET {DATA}/sessions/{{session}}/events",
    "listSessionPages": f"GET {DATA}/sessions/{{session}}/pages",
    "getPage": f"GET {DATA}/pages/{{page}}",
    "listPageEvents": f"GET {DATA}/pages/{{page}}/events",
    "getEvent": f"GET {DATA}/events/{{event}}",
    "listVisitors": f"GET {V1}/visitors?page_size=1000",
    "countVisitors": f"GET {V1}/visitors/counts",
    "getVisitorMinutes": f"GET {V1}/visitors/minutes",
    "getVisitor": f"GET {V1}/visits/{{visit}}/visitor",
    "explainVisit": f"GET {V1}/visits/{{visit}}/explain",
    "getReceipt": f"GET {V1}/receipts/{{visit}}/{{event}}",
    "listContacts": f"GET {V1}/contacts",
    "getContact": f"GET {V1}/contacts/{{contact}}",
    "getPerson": f"GET {V1}/contacts/{{contact}}/person",
    "getContext": f"GET {V1}/context?identityId={{person}}",
    "getInteraction": f"GET {V1}/interactions/{{interaction}}",
    "listInteractions": f"GET {V1}/interactions?identityId={{person}}",
    "listVisitInteractions": f"GET {V1}/visits/{{visit}}/interactions",
    "getQuality": f"GET {V1}/quality",
    "listLinks": f"GET {V1}/identities/{{person}}/links",
    "listRenames": f"GET {V1}/renames?identityId={{person}}",
}
"""What a key of a site sees of that site alone."""
NUMBERS = {"countVisitors", "getVisitorMinutes"}
REFUSED: dict[str, str] = {
    "listIdentities": f"GET {DATA}/identities",
    "exportIdentity": f"GET {V1}/identities/{{person}}/export",
    "eraseIdentity": f"DELETE {V1}/identities/{{person}}",
    "putContact": f"PUT {V1}/contacts/{{contact}}",
    "patchContact": f"PATCH {V1}/contacts/{{contact}}",
    "writeContacts": f"POST {V1}/contacts:batch",
    "deleteContacts": f"POST {V1}/contacts:batchDelete",
    "finishContactSync": f"POST {V1}/contacts:finishSync",
    "deleteContact": f"DELETE {V1}/contacts/{{contact}}",
    "linkContact": f"PUT {V1}/identities/{{person}}/contact",
    "unlinkContact": f"DELETE {V1}/identities/{{person}}/contact",
    "renameIdentity": f"PUT {V1}/identities/{{person}}/rename",
    "undoRename": f"DELETE {V1}/identities/{{person}}/rename",
    "mergeContacts": f"PUT {V1}/contacts/{{contact}}/merge",
    "undoMerge": f"DELETE {V1}/contacts/{{contact}}/merge",
    "listMerges": f"GET {V1}/merges",
    "listGenericValues": f"GET {V1}/generic-values",
    "decideGenericValue": f"PUT {V1}/generic-values/{{person}}",
    "listSharedIdentities": f"GET {V1}/shared-identities",
    "listDoubtfulLinks": f"GET {V1}/doubtful-links?doubt=ambiguous",
    "getSystemHealth": f"GET {V1}/health",
    "listDeadLetters": f"GET {V1}/dead-letters",
    "replayDeadLetters": f"POST {V1}/dead-letters:replay",
    "repairDeadLetter": f"POST {V1}/dead-letters:repair",
}
"""What belongs to no site, and so is not for such keys, whether it is there or not."""
ELSEWHERE = {
    # Of its own site only: test_gateway_sites.py, and test_site_isolation.py for what pages send.
    *("createVisit", "createEvent", "postBeacon", "getPixel"),
    # About visits of its own site only: test_interactions.py.
    "recordInteraction",
    # Below, as the streams that it is made of.
    "watchLive",
    # Of no visit.
    *(
        "getCaller",
        "beginSession",
        "endSession",
        "createSessionLink",
        "useSessionLink",
        "getAttention",
        "getHealth",
        "getReadiness",
        "getReadinessForBeacons",
        "getReadinessForQueries",
        "getMetrics",
        "renewCookie",
        "useLink",
    ),
    # Below, as the RPC that it calls; test_gateway_visit_codes.py.
    "createVisitCode",
}

RPCS: dict[str, dict[str, Any]] = {
    "GetVisitor": {"visitId": "{visit}"},
    "CreateVisitCode": {"visitId": "{visit}"},
    "GetCustomer": {"identityId": "{person}"},
    "ListVisitors": {"pageSize": 1000},
    "CountVisitors": {},
    "GetVisitorMinutes": {},
    "GetIdentity": {"identityId": "{person}"},
    "BatchGetIdentities": {"identityIds": ["{person}"]},
    "ListIdentities": {"pageSize": 1000},
    "GetContact": {"contactId": "{contact}"},
    "ListContacts": {"email": "{person}@mail.example"},
    "ListContactLinks": {"identityId": "{person}"},
    "GetPerson": {"contactId": "{contact}"},
    "ListRenames": {"identityId": "{person}"},
    "BatchGetNames": {"identityIds": ["{person}"]},
    "ExplainVisit": {"visitId": "{visit}"},
    "GetVisit": {"visitId": "{visit}"},
    "ListVisits": {"identityId": "{person}"},
    "GetPage": {"pageId": "{page}"},
    "ListPages": {"visitId": "{visit}"},
    "GetSession": {"sessionId": "{session}"},
    "ListSessions": {"visitId": "{visit}"},
    "GetEvent": {"eventId": "{event}"},
    "GetReceipt": {"visitId": "{visit}", "eventId": "{event}"},
    "ListEvents": {"visitId": "{visit}"},
    "ListVisitIdentities": {"visitId": "{visit}"},
    "ListIdentityIds": {"userAgent": "Browser of {person}"},
    "StreamRelated": {"parentKind": "RESOURCE_KIND_VISIT", "parentIds": ["{visit}"], "kinds": ["RESOURCE_KIND_EVENT"]},
    "GetCustomerContext": {"identityId": "{person}"},
    "GetInteraction": {"interactionId": "{interaction}"},
    "ListInteractions": {"identityId": "{person}"},
    "ExportIdentity": {"identityId": "{person}"},
    "ListScorecards": {},
    "SimulatePolicy": {"policy": 'version = "1"\nplaceholders = ["{person}"]'},
}
"""What an RPC answers when it is asked for a site: that of the site alone."""
LISTS = {"GetCustomer", "GetCustomerContext", "ListVisitors", "BatchGetIdentities", "ListIdentities", "ListContacts"}
LISTS |= {"ListVisits", "ListIdentityIds", "StreamRelated", "ExportIdentity", "ListScorecards", "SimulatePolicy"}
LISTS |= {"ListRenames", "BatchGetNames", "CountVisitors", "GetVisitorMinutes"}
"""Those that answer nothing, and not NOT_FOUND, about what is not there."""
ENDLESS = {"WatchVisitors", "StreamEvents"}
OF_NO_SITE = {
    *("ResolveEvents", "ImportIdentities", "StreamLiveVisits", "StreamAttributions"),
    *("UpsertContact", "UpdateContact", "DeleteContact", "LinkContact", "UnlinkContact", "EraseIdentity"),
    *("BatchUpsertContacts", "BatchDeleteContacts", "FinishContactSync"),
    *("RenameIdentity", "UndoRename", "MergeContacts", "UndoMerge", "ListMerges"),
    *("ListGenericValues", "DecideGenericValue", "CountLinks", "JudgeLinks"),
    *("ListDeadLetters", "ReplayDeadLetters", "RepairDeadLetter"),
}
"""What cannot be asked for a site. The gateway asks none of it for a client that is limited to sites."""


@dataclass(frozen=True)
class Trace:
    """What there is of one site, by what it is asked for."""

    visit: str
    person: str
    contact: str
    page: str
    session: str
    event: str
    interaction: str


@dataclass(frozen=True)
class Scene:
    """A suite, and what two sites have: each its own, and both something under one visit's, one person's name."""

    suite: Suite
    own: Mapping[str, Trace]
    shared: Mapping[str, Trace]

    def foreign(self, site: str) -> list[str]:
        """Words that must be in no answer to a site."""
        [other] = self.own.keys() - {site}
        shared = self.shared[other]
        return [*asdict(self.own[other]).values(), shared.page, shared.session, shared.event, f"of-{other}"]


UNKNOWN = Trace(*(str(uuid.uuid4()) for _ in range(7)))


@pytest.fixture(scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    with running_suite_of_sites(tmp_path_factory.mktemp("isolated")) as suite:
        async with suite.http() as http:
            own = {site: await told(http, site, str(uuid.uuid4()), f"person-of-{site}") for site in ("shop", "bank")}
            at_ms = now_ms() - 2 * DAY_MS
            await send_past(http, *(event("SignIn", str(uuid.uuid4()), at_ms, "ann", site=site) for site in own))
            await recount(suite, day_of_ms(at_ms))
            visit = str(uuid.uuid4())
            shared = {site: await told(http, site, visit, "person-of-both") for site in own}
            found = Scene(suite, own, shared)
            for site in own:
                async with client_of(suite, site) as client:
                    await eventually(lambda client=client, site=site: all_is_there(client, found, site), timeout=20)  # type: ignore[misc]
            yield found


async def told(http: httpx.AsyncClient, site: str, visit: str, person: str) -> Trace:
    """What a site sends of a visit, and a contact for the person."""
    at_ms, page, contact = now_ms() - 60_000, uuid.uuid4().hex, f"contact-for-{person}"
    common = {"site": site, "pageID": page, "url": f"https://of-{site}.example/"}
    data = {"email": f"{person}@mail.example", "mark": f"of-{site}", "location": f"of-{site}"}
    sign_in = event("SignIn", visit, at_ms, person, data=data, eventID=str(uuid.uuid4()), **common)
    entered = event("PageEntered", visit, at_ms + 1, data={"title": f"of-{site}"}, **common)
    assert (await http.put(f"{V1}/contacts/{contact}", json={"emailAddresses": [data["email"]]})).status_code == 200
    headers = {"User-Agent": f"Browser of {person}"}
    # The former name is one that only this site has seen. The data of both are the same.
    former = f"former-of-{site}-{person}"
    earlier = event("SignIn", str(uuid.uuid4()), at_ms - 1, former, data=data, **common)
    answer = await http.post("/beacon", json=[sign_in, entered, earlier], headers=headers)
    assert answer.status_code == 204
    renamed = await http.put(f"{V1}/identities/{former}/rename", json={"identityId": person})
    assert renamed.status_code == 200
    stored, interaction = scoped_visit_id(visit, site), f"interaction-of-{site}-with-{person}"
    reported = {"interactionId": interaction, "visitId": stored, "note": f"of-{site}", "agent": f"agent-of-{site}"}
    assert (await http.post(f"{V1}/interactions", json=reported)).status_code == 200
    event_id = sign_in["eventID"]
    return Trace(visit, person, contact, page_id(stored, page), session_id(stored, event_id), event_id, interaction)


async def all_is_there(client: httpx.AsyncClient, scene: Scene, site: str) -> None:
    for trace in (scene.own[site], scene.shared[site]):
        for name, question in SEEN.items():
            answer = await asked(client, question, trace)
            assert answer.status_code == 200, (name, answer.text)
        assert [one["visitor"]["visitId"] for one in (await asked(client, SEEN["getContext"], trace)).json()["visits"]]
        assert (await asked(client, SEEN["getIdentity"], trace)).json()["entityInCS"] == trace.contact
        assert (await asked(client, SEEN["getQuality"], trace)).json()["scorecards"]


async def asked(client: httpx.AsyncClient, question: str, trace: Trace) -> httpx.Response:
    method, _, path = question.format(**asdict(trace)).partition(" ")
    bodies: dict[str, dict[str, Any]] = {
        "/contact": {"contactId": trace.contact},
        "/merge": {"contactId": trace.contact},
        "/rename": {"identityId": trace.person},
        "contacts:batch": {"contacts": [{"contactId": trace.contact}]},
        "contacts:batchDelete": {"contactIds": [trace.contact]},
        "contacts:finishSync": {"generation": 1},
        "dead-letters:replay": {"all": True},
        "dead-letters:repair": {"deadLetterId": "unknown", "drop": ["url"]},
        f"/generic-values/{trace.person}": {"allowed": True},
    }
    body = next((body for end, body in bodies.items() if path.endswith(end)), {})
    return await client.request(method, path, json=None if method in {"GET", "DELETE"} else body)


async def test_the_lists_are_of_all_there_is_to_ask(scene: Scene) -> None:
    async with scene.suite.http() as http:
        described = (await http.get("/openapi.json")).json()["paths"]
    operations = {one["operationId"] for path in described.values() for one in path.values()}
    assert {name.removesuffix("V81") for name in operations} == {*SEEN, *REFUSED, *ELSEWHERE}
    services = (identity.DESCRIPTOR.services_by_name, history.DESCRIPTOR.services_by_name)
    methods = [method for names in services for service in names.values() for method in service.methods]
    assert {method.name for method in methods} == {*RPCS, *ENDLESS, *OF_NO_SITE}
    limited = {method.name for method in methods if "sites" in method.input_type.fields_by_name}
    assert limited == {*RPCS, *ENDLESS}


@pytest.mark.parametrize("site", ["shop", "bank"])
async def test_a_key_of_a_site_is_answered_what_is_of_that_site_by_every_operation(scene: Scene, site: str) -> None:
    [other] = scene.own.keys() - {site}
    async with client_of(scene.suite, site) as client:
        for name, question in SEEN.items():
            for trace in (scene.own[site], scene.shared[site]):
                answer = await asked(client, question, trace)
                assert answer.status_code == 200, name
                assert found(answer.text, scene.foreign(site)) == [], name
            if name in {"listVisitors", "listVisits", "listContacts", "getQuality", "listRenames"} | NUMBERS:
                continue
            unknown = await asked(client, question, UNKNOWN)
            hidden = await asked(client, question, scene.own[other])
            status = 200 if name == "getContext" else 404
            assert (hidden.status_code, hidden.text) == (status, unknown.text), name
            assert unknown.status_code == status, name


@pytest.mark.parametrize("site", ["shop", "bank"])
async def test_a_key_of_a_site_is_answered_the_scorecards_of_that_site(scene: Scene, site: str) -> None:
    [other] = scene.own.keys() - {site}
    async with client_of(scene.suite, site) as client, client_of(scene.suite, "shop", "bank") as of_both:
        for query in ("", f"?site={site}"):
            answer = (await client.get(f"{V1}/quality{query}")).json()
            assert {card["site"] for card in answer["scorecards"]} == {site}
        assert (await client.get(f"{V1}/quality?site={other}")).status_code == 403
        assert (await of_both.get(f"{V1}/quality")).status_code == 400
        one = (await of_both.get(f"{V1}/quality?site={site}")).json()["scorecards"]
        assert {card["site"] for card in one} == {site}


@pytest.mark.parametrize("site", ["shop", "bank"])
async def test_a_key_of_a_site_is_answered_the_numbers_of_that_site(scene: Scene, site: str) -> None:
    [other] = scene.own.keys() - {site}
    async with client_of(scene.suite, site) as client:
        counts = (await client.get(f"{V1}/visitors/counts")).json()
        assert [one["site"] for one in counts["sites"]] == [site]
        assert counts["total"]["here"] == counts["sites"][0]["here"] > 0
        assert (await client.get(f"{V1}/visitors/minutes?site={other}")).status_code == 403
        for query in ("", f"?site={site}"):
            assert len((await client.get(f"{V1}/visitors/minutes{query}")).json()["series"]) == 1


@pytest.mark.parametrize("site", ["shop", "bank"])
async def test_what_belongs_to_no_site_is_refused_alike_whether_it_is_there_or_not(scene: Scene, site: str) -> None:
    [other] = scene.own.keys() - {site}
    async with client_of(scene.suite, site) as client:
        for name, question in REFUSED.items():
            for trace in (scene.own[site], scene.own[other], UNKNOWN):
                answer = await asked(client, question, trace)
                assert (answer.status_code, "limited to sites" in answer.text) == (403, True), name


def found(text: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word in text]


async def answered(scene: Scene, name: str, site: str, trace: Trace) -> str:
    """What an RPC says to a site of a trace: messages as JSON, or the status."""
    is_identity = name in identity.DESCRIPTOR.services_by_name["IdentityService"].methods_by_name
    module, service = (identity, "identity") if is_identity else (history, "history")
    fields = {field: filled(value, trace) for field, value in RPCS[name].items()}
    request = ParseDict(fields, getattr(module, f"{name}Request")(sites=[site]))
    async with scene.suite.channel(service) as channel:
        stub = IdentityServiceStub(channel) if is_identity else HistoryServiceStub(channel)
        call = getattr(stub, name)(request, timeout=30)
        try:
            answers = [one async for one in call] if isinstance(call, grpc.aio.UnaryStreamCall) else [await call]
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "".join(map(MessageToJson, answers))


def filled(value: Any, trace: Trace) -> Any:
    if isinstance(value, list):
        return [filled(one, trace) for one in value]
    return value.format(**asdict(trace)) if isinstance(value, str) else value


@pytest.mark.parametrize("site", ["shop", "bank"])
async def test_every_rpc_answers_a_site_what_is_of_that_site(scene: Scene, site: str) -> None:
    [other] = scene.own.keys() - {site}
    for name in RPCS:
        for trace in (scene.own[site], scene.shared[site]):
            text = await answered(scene, name, site, trace)
            assert len(text) > len("INVALID_ARGUMENT"), (name, text)
            assert found(text, scene.foreign(site)) == [], name
        hidden = await answered(scene, name, site, scene.own[other])
        if name in LISTS:
            assert found(hidden, scene.foreign(site)) == [], name
        else:
            assert hidden == await answered(scene, name, site, UNKNOWN) == "NOT_FOUND", name


@pytest.mark.parametrize("service", ["WatchVisitors", "StreamEvents"])
async def test_a_stream_tells_a_site_what_is_of_that_site(
    scene: Scene, service: Literal["WatchVisitors", "StreamEvents"]
) -> None:
    module, name = (identity, "identity") if service == "WatchVisitors" else (history, "history")
    visit = str(uuid.uuid4())
    request = getattr(module, f"{service}Request")(sites=["shop"], announce_progress=True)
    async with scene.suite.channel(name) as channel, scene.suite.http() as http:
        stub = IdentityServiceStub(channel) if name == "identity" else HistoryServiceStub(channel)
        call = getattr(stub, service)(request)
        await call.read()
        for site in ("bank", "shop"):
            await send(http, event("SignIn", visit, now_ms(), f"of-{site}", site=site))
        text = ""
        while "of-shop" not in text:
            text += MessageToJson(await asyncio.wait_for(call.read(), 5))
        call.cancel()
    assert "of-bank" not in text
    assert visit in text
