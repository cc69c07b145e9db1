"""History's commands to MongoDB: their number does not grow with the items, and none scans a collection."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.site_groups import SiteGroups
from footfall_history.dead_letters.queue import DeadLetterQueue
from footfall_history.identity_client import IdentityClient
from footfall_history.ingest import last_keys
from footfall_history.ingest.attribution import Attributor, EffortLimit
from footfall_history.queries import filters
from footfall_history.queries.export import Exporter
from footfall_history.queries.filters import Moment, Window
from footfall_history.queries.interactions import InteractionReader, Person
from footfall_history.queries.reader import Reader
from footfall_history.queries.related import EVENT, IDENTITY, PAGE, SESSION, VISIT, RelatedItems
from footfall_history.storage.indexes import INDEXES
from footfall_history.storage.preview import Preview
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_servicekit.indexes import Indexes, IndexMissingError
from footfall_timeline import normalize_uuid, order_key, page_id, session_id

from tests.service.history.conftest import ERASURE_KEY, IDLE_MS, Listener
from tests.tools import mongodb_commands
from tests.tools.history import entry
from tests.tools.stories import MINUTE_MS, Story
from tests.tools.visits import event, now_ms

PERSON = "dana@shop.example"
SCOPE = pb.Scope(site="default", age_seconds=3600)

NO_CALL: Any = None
"""In place of the call that a query serves: these ask no other service."""

USUAL = EffortLimit(transitions=50, reattributions=1_000)
"""The limit of the log's consumer. Without a limit, events are stored 100 per command."""


class Watched:
    """A store with visits of one person, and the commands to it."""

    def __init__(self, store: Store, dead_letters: DeadLetterQueue, listener: Listener) -> None:
        self.store = store
        self.reader = Reader(store, IDLE_MS)
        tombstones = Tombstones(store, ERASURE_KEY)
        self.attributor = Attributor(store, tombstones, max_transitions=1_000)
        preview = Preview(tombstones, max_transitions=1_000)
        self.interactions = InteractionReader(store, tombstones, IdentityClient("127.0.0.1:1", 100), max_visits=100)
        self.exporter = Exporter(store, self.reader, tombstones, dead_letters, preview, interactions=self.interactions)
        self.stories: list[Story] = []
        self.listener = listener

    @contextmanager
    def commands(self) -> Iterator[list[Any]]:
        """The commands within the block."""
        found: list[Any] = []
        before = len(self.listener.commands)
        yield found
        # A cursor that is read further sends getMore.
        found += [command for command in self.listener.commands[before:] if next(iter(command)) != "getMore"]

    async def grow(self, count: int) -> None:
        """Add visits of the person."""
        stories = [Story(PERSON, now_ms() - MINUTE_MS) for _ in range(count)]
        assert (await self.attributor.store([story.entry() for story in stories], USUAL)).unstorable == []
        self.stories += stories

    def related(self, kind: Any, ids: list[str], *kinds: Any) -> Any:
        return RelatedItems(
            self.store,
            self.reader,
            pb.StreamRelatedRequest(parent_kind=kind, parent_ids=ids, kinds=kinds, detailed_kinds=kinds, scope=SCOPE),
            SiteGroups(),
        )


@pytest.fixture
async def watched(store: Store, dead_letters: DeadLetterQueue, listener: Listener) -> Watched:
    return Watched(store, dead_letters, listener)


async def all_of(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


Ask = Callable[[Watched], Awaitable[Any]]


def events_of(**request: Any) -> Ask:
    message = pb.ListEventsRequest(scope=SCOPE, page_size=1000, **request)

    async def ask(watched: Watched) -> None:
        conditions = filters.event_conditions(message)
        found = await watched.reader.events(filters.parse_parent(message), conditions, filters.window(message))
        assert found.items

    return ask


def pages_of(watched: Watched, field: str, parent_id: str) -> Awaitable[Any]:
    window = filters.window(pb.ListPagesRequest(page_size=1000))
    return watched.reader.pages((field, parent_id), {}, window)


def visits_by(watched: Watched, **fields: Any) -> Awaitable[Any]:
    request = pb.ListVisitsRequest(page_size=1000, **fields)
    return watched.reader.visits(filters.visit_conditions(request), filters.window(request))


SESSIONS = filters.window(pb.ListSessionsRequest(page_size=1000))

QUESTIONS: dict[str, Ask] = {
    "visit": lambda watched: watched.reader.visit(watched.stories[0].visit_id),
    "visits of an identity": lambda watched: visits_by(watched, identity_id=PERSON),
    "visits of a device": lambda watched: visits_by(watched, global_visit_id=watched.stories[0].device),
    "visits with a user agent": lambda watched: visits_by(watched, user_agent="x"),
    "visits of a site": lambda watched: visits_by(watched, scope=SCOPE),
    "visits": visits_by,
    "session": lambda watched: watched.reader.session(watched.stories[0].session_id),
    "sessions of an identity": lambda watched: watched.reader.sessions({"identities": PERSON}, [PERSON], SESSIONS),
    "event": lambda watched: watched.reader.event(watched.stories[0].event_id(0)),
    "event of a visit": lambda watched: watched.reader.event(
        watched.stories[0].event_id(0), [watched.stories[0].visit_id]
    ),
    "events of an identity": events_of(identity_id=PERSON),
    "events of an identity, filtered": events_of(identity_id=PERSON, event_name="AddToCart", category="cars"),
    "events of a visit": lambda watched: events_of(visit_id=watched.stories[0].visit_id)(watched),
    "events of a session": lambda watched: events_of(session_id=watched.stories[0].session_id)(watched),
    "events of a page": lambda watched: events_of(page_id=watched.stories[0].loans)(watched),
    "page": lambda watched: watched.reader.page(watched.stories[0].loans),
    "pages of an identity": lambda watched: pages_of(watched, "identity_id", PERSON),
    "pages of a visit": lambda watched: pages_of(watched, "visit_id", watched.stories[0].visit_id),
    "identities with a user agent": lambda watched: watched.reader.identity_ids({"user_agent": "x"}, "", 50),
    "what belongs to visits": lambda watched: all_of(
        watched.related(VISIT, [story.visit_id for story in watched.stories], PAGE, SESSION, EVENT).items()
    ),
    "what belongs to an identity": lambda watched: all_of(
        watched.related(IDENTITY, [PERSON, "unknown person"], VISIT, PAGE, SESSION, EVENT).items()
    ),
    "what belongs to sessions": lambda watched: all_of(
        watched.related(SESSION, [story.session_id for story in watched.stories], PAGE, EVENT).items()
    ),
    "what belongs to pages": lambda watched: all_of(
        watched.related(PAGE, [story.loans for story in watched.stories], EVENT).items()
    ),
    "export": lambda watched: all_of(watched.exporter.export(PERSON)),
    "interactions of a person": lambda watched: watched.interactions.of_person(
        Person([PERSON, "erik"], ["c-1"], ["+4930123456"]), Window("", "", 50, newest_first=True), ["default"]
    ),
    "interactions of an agent": lambda watched: watched.interactions.page(
        pb.ListInteractionsRequest(agent="anna", sites=["default"]), Window("", "", 50), NO_CALL
    ),
    "interactions of sites": lambda watched: watched.interactions.page(
        pb.ListInteractionsRequest(sites=["default"]), Window("", "", 50), NO_CALL
    ),
    "interactions": lambda watched: watched.interactions.page(
        pb.ListInteractionsRequest(), Window("", "", 50), NO_CALL
    ),
    "sweep": lambda watched: watched.store.remove_before(now_ms() - MINUTE_MS // 2),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_no_query_needs_more_commands_for_more_items_or_scans_a_collection(
    watched: Watched, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_keys, "EVENTS_PER_NOTE", 1_000_000)  # a noted visit costs a query of its own
    counts = []
    for size in (3, 12):
        await watched.grow(size)
        with watched.commands() as commands:
            await QUESTIONS[name](watched)
        counts.append(len(commands))
        for command in commands:
            await assert_indexed(watched.store, command)
    # With fifteen visits instead of three. The number of ranges depends a little on the distance between events.
    assert counts[0] >= 1
    assert counts[1] <= counts[0] + 2


async def test_without_indexes_only_filters_on_ids_reach_the_store(watched: Watched) -> None:
    await watched.grow(2)
    watched.store.indexes = Indexes(INDEXES)
    building = asyncio.create_task(watched.store.indexes.make(lambda _: asyncio.Event().wait()))
    await asyncio.sleep(0)  # until it has begun
    refused = set()
    with watched.commands() as commands:
        for name, ask in QUESTIONS.items():
            try:
                await ask(watched)
            except IndexMissingError:
                refused.add(name)
    building.cancel()
    assert QUESTIONS.keys() - refused == {"event of a visit"}
    assert {next(iter(where)) for command in commands for where in mongodb_commands.filters_of(command)} == {"_id"}


async def test_storing_takes_as_many_commands_for_many_visits_as_for_few(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_keys, "EVENTS_PER_NOTE", 1_000_000)  # a note costs a command of its own
    counts = []
    for size in (2, 40):
        with watched.commands() as commands:
            await watched.grow(size)
        counts.append([next(iter(command)) for command in commands])
        for command in commands:
            await assert_indexed(watched.store, command)
    assert counts[0] == counts[1]
    # Read visits, begin them, look for tombstones, insert events, read visits again, journal.
    assert counts[0] == ["aggregate", "insert", "find", "insert", "aggregate", "update"]
    more = [entry([event("AddToCart", story.visit_id, now_ms())]) for story in watched.stories]
    with watched.commands() as commands:
        await watched.attributor.store(more, USUAL)
    assert [next(iter(command)) for command in commands] == ["insert", "aggregate", "update"]


async def test_of_anonymous_visits_that_have_not_changed_nothing_is_read_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_keys, "EVENTS_PER_NOTE", 1_000_000)
    visit_ids = [str(uuid.uuid4()) for _ in range(60)]  # more than are read with one command

    def pages() -> list[EventBatch]:
        return [entry([event("PageEntered", visit_id, now_ms())]) for visit_id in visit_ids]

    await watched.attributor.store(pages(), USUAL)
    watched.listener.answered = 0
    with watched.commands() as commands:
        await watched.attributor.store(pages(), USUAL)
    assert [next(iter(command)) for command in commands] == ["insert", "aggregate", "update"]
    for command in commands:
        await assert_indexed(watched.store, command)
    assert watched.listener.answered == 0


async def test_late_transitions_and_duplicates_use_indexes(watched: Watched) -> None:
    await watched.grow(2)
    story = watched.stories[0]
    late = event("UserInfo", story.visit_id, story.at_ms + 1_500, "ann")
    with watched.commands() as commands:
        await watched.attributor.store([story.entry(), entry([late])])
    assert "update" in {next(iter(command)) for command in commands}
    for command in commands:
        await assert_indexed(watched.store, command)


PAGE_SIZE = 20


class Stay(NamedTuple):
    """A visit of one person."""

    visit_id: str
    person: str
    session_id: str
    middle_key: str


async def stay(watched: Watched, events: int) -> Stay:
    """Store a visit with this many events: a page every second, with events on it."""
    visit_id, person, at_ms = str(uuid.uuid4()), f"person {uuid.uuid4()}", now_ms() - 3_600_000
    done = [event("SignIn", visit_id, at_ms, person)]
    for number in range(1, events):
        name = ("PageEntered", "AddToCart", "PageExited")[number % 3]
        done.append(event(name, visit_id, at_ms + number * 333, pageID=f"{number // 3:032X}"))
    for start in range(0, events, 1_000):
        assert (await watched.attributor.store([entry(done[start : start + 1_000])])).unstorable == []
    session = session_id(visit_id, normalize_uuid(done[0]["eventID"]))
    return Stay(visit_id, person, session, order_key(done[events // 2]["timestamp"], ""))


async def explain_visit(reader: Reader, stay: Stay) -> None:
    _, visit = await reader.visit(stay.visit_id) or pytest.fail("is not known")
    moment = Moment(known_at_ms=now_ms())
    assert (await reader.explanations(await reader.seen(visit, moment), Window("", "", 1_000), moment)).items


ABOUT_A_STAY: dict[str, Callable[[Reader, Stay, Window], Awaitable[Any]]] = {
    "visit": lambda reader, stay, _: reader.visit(stay.visit_id),
    "explanation": lambda reader, stay, _: explain_visit(reader, stay),
    "events": lambda reader, stay, window: reader.events(("visit_id", stay.visit_id), {}, window),
    "filtered events": lambda reader, stay, window: reader.events(
        ("visit_id", stay.visit_id), {"event_name": "AddToCart", "received_ms": {"$gte": 1}}, window
    ),
    "events of its identity": lambda reader, stay, window: reader.events(("identity_id", stay.person), {}, window),
    "events of its session": lambda reader, stay, window: reader.events(("session_id", stay.session_id), {}, window),
    "page": lambda reader, stay, _: reader.page(page_id(stay.visit_id, f"{1:032X}")),
    "pages": lambda reader, stay, window: reader.pages(("visit_id", stay.visit_id), {}, window),
    "pages of its identity": lambda reader, stay, window: reader.pages(("identity_id", stay.person), {}, window),
}


async def test_a_long_visit_needs_no_more_reads_than_a_short_one(watched: Watched) -> None:
    stays = [await stay(watched, 100), await stay(watched, 5_000)]
    for name, ask in ABOUT_A_STAY.items():
        for of in stays:
            for window in (
                Window("", "", PAGE_SIZE),
                Window(of.middle_key, "", PAGE_SIZE),
                Window("", "", PAGE_SIZE, newest_first=True),
                Window("", of.middle_key, PAGE_SIZE, newest_first=True),
            ):
                watched.listener.answered = 0
                with watched.commands() as commands:
                    await ask(watched.reader, of, window)
                assert len(commands) <= 12, name
                looked_at = sum([await looked_at_by(watched.store, command) for command in commands])
                assert watched.listener.answered <= 6 * PAGE_SIZE, name
                assert looked_at <= 15 * PAGE_SIZE, name


async def looked_at_by(store: Store, command: Any) -> int:
    """The number of documents that the first stage of a command matches: SecantusDB's server reads all of them."""
    [where] = mongodb_commands.filters_of(command)
    return await store.events.database[command[next(iter(command))]].count_documents(where)


async def test_hardly_more_large_events_are_read_than_fit_into_a_response(watched: Watched) -> None:
    visit_id = str(uuid.uuid4())
    large = [event("AddToCart", visit_id, now_ms() + n, data={"text": "x" * 60_000}) for n in range(180)]
    for start in range(0, len(large), 60):
        await watched.attributor.store([entry(large[start : start + 60])])
    watched.listener.answered = 0
    page = await watched.reader.events(("visit_id", visit_id), {}, Window("", "", 1_000))
    assert page.next_key
    assert watched.listener.answered <= len(page.items) + 100


async def assert_indexed(store: Store, command: Any) -> None:
    """Assert that an index serves every filter of a command."""
    collection = command[next(iter(command))]
    if collection in {index.collection for index in INDEXES.values()}:
        await mongodb_commands.assert_indexed(store.events.database, command)
    else:
        assert collection in {"history_marks", "history_tombstones"}  # asked for by _id
