"""Items of many parents in one request equal the lists of each; identity ids by user agent."""

import uuid
from collections import defaultdict
from typing import Any

import grpc
import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history.ingest.attribution import Attributor
from footfall_history.queries.related import EVENT, IDENTITY, PAGE, SESSION, VISIT
from footfall_servicekit.errors import details_of

from tests.tools.history import entry
from tests.tools.stories import MINUTE_MS, Story
from tests.tools.visits import event, now_ms

NAMES = {VISIT: "visit", PAGE: "page", SESSION: "session", EVENT: "event"}


@pytest.fixture
async def stories(attributor: Attributor) -> list[Story]:
    """Three visits, two of them of one person, all from half an hour ago."""
    ann, bob = f"{uuid.uuid4()}#ann", f"{uuid.uuid4()}/bob"
    stories = [Story(person, now_ms() - 30 * MINUTE_MS + number) for number, person in enumerate([ann, bob, ann])]
    again = event("UserInfo", stories[2].visit_id, stories[2].at_ms + 6_000, bob)
    assert (await attributor.store([*(story.entry() for story in stories), entry([again])])).unstorable == []
    return stories


async def related(stub: Any, **request: Any) -> dict[tuple[str, str], list[Any]]:
    """The streamed items, by kind and parent."""
    found = defaultdict(list)
    async for response in stub.StreamRelated(pb.StreamRelatedRequest(**request)):
        for item in response.items:
            kind = item.WhichOneof("item")
            found[kind, item.parent_id].append(getattr(item, kind))
    return found


async def listed(stub: Any, kind: Any, field: str, parent: str) -> list[Any]:
    name = NAMES[kind].capitalize()
    request = getattr(pb, f"List{name}sRequest")(**{field: parent})
    try:
        return list(getattr(await getattr(stub, f"List{name}s")(request), f"{NAMES[kind]}s"))
    except grpc.aio.AioRpcError as error:
        # Of an unknown identity, identity could have known another name: here it does not answer.
        if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}:
            return []
        raise


def parents(stories: list[Story]) -> dict[Any, tuple[str, list[str]]]:
    return {
        IDENTITY: ("identity_id", [*{story.person: None for story in stories}, "unknown person"]),
        VISIT: ("visit_id", [*(story.visit_id for story in stories), str(uuid.uuid4())]),
        SESSION: ("session_id", [story.session_id for story in stories]),
        PAGE: ("page_id", [page for story in stories for page in (story.loans, story.cart)]),
    }


@pytest.mark.parametrize(
    ("parent", "kinds"),
    [
        (IDENTITY, [VISIT, PAGE, SESSION, EVENT]),
        (VISIT, [PAGE, SESSION, EVENT]),
        (SESSION, [PAGE, EVENT]),
        (PAGE, [EVENT]),
    ],
)
async def test_items_of_many_parents_equal_the_lists_of_each(
    stub: Any, stories: list[Story], parent: Any, kinds: list[Any]
) -> None:
    field, ids = parents(stories)[parent]
    found = await related(stub, parent_kind=parent, parent_ids=ids, kinds=kinds, detailed_kinds=kinds)
    short = await related(stub, parent_kind=parent, parent_ids=ids, kinds=kinds)
    for kind in kinds:
        for parent_id in ids:
            whole = await listed(stub, kind, field, parent_id)
            assert found[NAMES[kind], parent_id] == whole
            assert [id_of(kind, item) for item in short[NAMES[kind], parent_id]] == [id_of(kind, i) for i in whole]


def id_of(kind: Any, item: Any) -> str:
    return str(item.event.event_id if kind == EVENT else getattr(item, f"{NAMES[kind]}_id"))


async def test_items_have_only_ids_unless_details_are_requested(stub: Any, stories: list[Story]) -> None:
    found = await related(stub, parent_kind=VISIT, parent_ids=[stories[0].visit_id], kinds=[PAGE])
    assert [page.url for page in found["page", stories[0].visit_id]] == ["", ""]


async def test_a_parent_is_named_as_in_the_request(stub: Any, stories: list[Story]) -> None:
    spelled = stories[0].visit_id.replace("-", "").upper()
    assert ("event", spelled) in await related(stub, parent_kind=VISIT, parent_ids=[spelled], kinds=[EVENT])


async def test_items_are_limited_to_site_and_time(stub: Any, stories: list[Story]) -> None:
    ids = [story.visit_id for story in stories]
    elsewhere = pb.Scope(site="elsewhere")
    assert not await related(stub, parent_kind=VISIT, parent_ids=ids, kinds=[PAGE, SESSION, EVENT], scope=elsewhere)
    later = pb.Scope()
    later.start_time.FromMilliseconds(stories[0].at_ms + 5_500)
    found = await related(stub, parent_kind=VISIT, parent_ids=ids, kinds=[PAGE, SESSION, EVENT], scope=later)
    assert {kind: len(items) for (kind, _), items in found.items()} == {"event": 1}


async def test_too_many_items_are_refused(stub: Any, stories: list[Story]) -> None:
    ids = [story.visit_id for story in stories]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await related(stub, parent_kind=VISIT, parent_ids=ids, kinds=[EVENT], max_items=21)
    details = details_of(raised.value)
    assert (details.code, details.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_ITEMS")
    await related(stub, parent_kind=VISIT, parent_ids=ids, kinds=[EVENT], max_items=22)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"parent_kind": EVENT, "kinds": [EVENT]}, "parent_kind"),
        ({"parent_kind": VISIT, "parent_ids": ["x"], "kinds": [EVENT]}, "parent_ids"),
        ({"parent_kind": IDENTITY, "parent_ids": ["x"] * 1_001, "kinds": [EVENT]}, "parent_ids"),
        ({"parent_kind": VISIT, "kinds": []}, "kinds"),
        ({"parent_kind": PAGE, "kinds": [VISIT]}, "kinds"),
        ({"parent_kind": VISIT, "kinds": [PAGE], "detailed_kinds": [EVENT]}, "detailed_kinds"),
        ({"parent_kind": VISIT, "kinds": [PAGE], "max_items": -1}, "max_items"),
    ],
)
async def test_a_bad_request_names_the_field(stub: Any, request_: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await related(stub, **request_)
    assert [violation[0] for violation in details_of(raised.value).violations] == [field]


async def test_identities_are_found_by_user_agent_in_the_order_of_code_points(
    stub: Any, attributor: Attributor
) -> None:
    agent, people = f"agent {uuid.uuid4()}", ["Zoë", "ann", "a", "çelik", "\U0001d4b5", "\uffee"]
    await attributor.store([Story(person, user_agent=agent).entry() for person in people])
    found: list[str] = []
    request = pb.ListIdentityIdsRequest(user_agent=agent, page_size=4)
    while True:
        answer = await stub.ListIdentityIds(request)
        found += answer.identity_ids
        if not answer.next_page_token:
            break
        request.page_token = answer.next_page_token
    assert found == sorted(people)
    assert not (await stub.ListIdentityIds(pb.ListIdentityIdsRequest(user_agent=agent, site="other"))).identity_ids
