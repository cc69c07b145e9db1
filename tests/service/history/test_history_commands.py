"""What history asks of MongoDB: as many commands for many items as for few, and none that scans a collection."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from footfall.history.v1 import history_service_pb2 as pb
from footfall_history import query
from footfall_history.reader import Reader
from footfall_history.related import EVENT, IDENTITY, PAGE, SESSION, VISIT, Related
from footfall_history.stamper import Stamper
from footfall_history.store import INDEXES, Store
from footfall_history.tombstones import Tombstones
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import monitoring

from tests.service.history.conftest import ERASURE_KEY, IDLE_MS
from tests.tools.history import entry
from tests.tools.stories import MINUTE_MS, Story
from tests.tools.visits import event, now_ms

PERSON = "dana@shop.example"
SCOPE = pb.Scope(site="default", age_seconds=3600)


class Listener(monitoring.CommandListener):
    """Remembers commands."""

    def __init__(self) -> None:
        self.commands: list[Any] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


class Watched:
    """A store full of visits of one person, and what is asked of it."""

    def __init__(self, store: Store, listener: Listener) -> None:
        self.store = store
        self.reader = Reader(store, IDLE_MS)
        self.stamper = Stamper(store, Tombstones(store, ERASURE_KEY), transitions_kept=1_000)
        self.stories: list[Story] = []
        self._listener = listener

    @contextmanager
    def commands(self) -> Iterator[list[Any]]:
        """What is asked within."""
        found: list[Any] = []
        before = len(self._listener.commands)
        yield found
        # A cursor that is read on and on asks for more as its reader goes.
        found += [command for command in self._listener.commands[before:] if next(iter(command)) != "getMore"]

    async def grow(self, count: int) -> None:
        """Let the person come so often."""
        stories = [Story(PERSON, now_ms() - MINUTE_MS) for _ in range(count)]
        assert (await self.stamper.keep([story.entry() for story in stories])).unstorable == []
        self.stories += stories

    def related(self, kind: Any, ids: list[str], *kinds: Any) -> Any:
        return Related(
            self.store,
            self.reader,
            pb.StreamRelatedRequest(parent_kind=kind, parent_ids=ids, kinds=kinds, detailed_kinds=kinds, scope=SCOPE),
        )


@pytest.fixture
async def watched(mongo_url: str, mongo_database: str) -> AsyncIterator[Watched]:
    listener = Listener()
    client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(mongo_url, event_listeners=[listener])
    store = Store(client, mongo_database)
    await store.prepare()
    yield Watched(store, listener)
    await store.close()


async def all_of(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


Ask = Callable[[Watched], Awaitable[Any]]


def events_of(**request: Any) -> Ask:
    message = pb.ListEventsRequest(scope=SCOPE, page_size=1000, **request)

    async def ask(watched: Watched) -> None:
        parent = await watched.reader.of_parent(*query.parent_of(message))
        found = await watched.reader.events(parent | query.event_conditions(message), query.window(message))
        assert found.items

    return ask


def pages_of(watched: Watched, **conditions: Any) -> Awaitable[Any]:
    window = query.window(pb.ListPagesRequest(page_size=1000))
    return watched.reader.pages(conditions, window)


def visits_by(watched: Watched, **filters: Any) -> Awaitable[Any]:
    request = pb.ListVisitsRequest(page_size=1000, **filters)
    return watched.reader.visits(query.visit_conditions(request), query.window(request))


SESSIONS = query.window(pb.ListSessionsRequest(page_size=1000))

QUESTIONS: dict[str, Ask] = {
    "visit": lambda watched: watched.reader.visit(watched.stories[0].visit_id),
    "visits of an identity": lambda watched: visits_by(watched, identity_id=PERSON),
    "visits of a device": lambda watched: visits_by(watched, global_visit_id=watched.stories[0].device),
    "visits with a user agent": lambda watched: visits_by(watched, user_agent="x"),
    "visits of a site": lambda watched: visits_by(watched, scope=SCOPE),
    "visits": visits_by,
    "session": lambda watched: watched.reader.session(watched.stories[0].session_id),
    "sessions of an identity": lambda watched: watched.reader.sessions({"identities": PERSON}, PERSON, SESSIONS),
    "event": lambda watched: watched.reader.event(watched.stories[0].event_id(0), ""),
    "event of a visit": lambda watched: watched.reader.event(
        watched.stories[0].event_id(0), watched.stories[0].visit_id
    ),
    "events of an identity": events_of(identity_id=PERSON),
    "events of an identity, filtered": events_of(identity_id=PERSON, event_name="AddToCart", category="cars"),
    "events of a visit": lambda watched: events_of(visit_id=watched.stories[0].visit_id)(watched),
    "events of a session": lambda watched: events_of(session_id=watched.stories[0].session_id)(watched),
    "events of a page": lambda watched: events_of(page_id=watched.stories[0].loans)(watched),
    "page": lambda watched: watched.reader.page(watched.stories[0].loans),
    "pages of an identity": lambda watched: pages_of(watched, identity_id=PERSON),
    "pages of a visit": lambda watched: pages_of(watched, visit_id=watched.stories[0].visit_id),
    "identities with a user agent": lambda watched: watched.reader.identity_ids({"user_agent": "x"}, "", 50),
    "what belongs to visits": lambda watched: all_of(
        watched.related(VISIT, [story.visit_id for story in watched.stories], PAGE, SESSION, EVENT).items()
    ),
    "what belongs to an identity": lambda watched: all_of(
        watched.related(IDENTITY, [PERSON, "nobody"], VISIT, PAGE, SESSION, EVENT).items()
    ),
    "what belongs to sessions": lambda watched: all_of(
        watched.related(SESSION, [story.session_id for story in watched.stories], PAGE, EVENT).items()
    ),
    "what belongs to pages": lambda watched: all_of(
        watched.related(PAGE, [story.loans for story in watched.stories], EVENT).items()
    ),
    "export": lambda watched: all_of(watched.reader.export(PERSON)),
    "sweep": lambda watched: watched.store.remove_before(now_ms() - MINUTE_MS // 2),
}


@pytest.mark.parametrize("name", QUESTIONS)
async def test_no_question_takes_more_commands_for_more_items_and_none_scans(watched: Watched, name: str) -> None:
    counts = []
    for size in (3, 12):
        await watched.grow(size)
        with watched.commands() as commands:
            await QUESTIONS[name](watched)
        counts.append(len(commands))
        for command in commands:
            await assert_indexed(watched.store, command)
    assert counts[0] == counts[1] >= 1


async def test_storing_takes_as_many_commands_for_many_visits_as_for_few(watched: Watched) -> None:
    counts = []
    for size in (2, 40):
        with watched.commands() as commands:
            await watched.grow(size)
        counts.append([next(iter(command)) for command in commands])
        for command in commands:
            await assert_indexed(watched.store, command)
    assert counts[0] == counts[1]
    # Read visits, begin them, look for tombstones, insert events, read visits again, look for stretches, journal.
    assert counts[0] == ["find", "insert", "find", "insert", "find", "find", "update"]
    more = [entry([event("AddToCart", story.visit_id, now_ms())]) for story in watched.stories]
    with watched.commands() as commands:
        await watched.stamper.keep(more)
    assert [next(iter(command)) for command in commands] == ["insert", "find", "update"]


async def test_late_transitions_and_repeats_are_found_by_indexes_too(watched: Watched) -> None:
    await watched.grow(2)
    story = watched.stories[0]
    late = event("UserInfo", story.visit_id, story.at_ms + 1_500, "ann")
    with watched.commands() as commands:
        await watched.stamper.keep([story.entry(), entry([late])])
    assert "update" in {next(iter(command)) for command in commands}
    for command in commands:
        await assert_indexed(watched.store, command)


async def assert_indexed(store: Store, command: Any) -> None:
    """That every filter of a command is served by an index."""
    verb = next(iter(command))
    collection = command[verb]
    if collection not in INDEXES:
        assert collection in {"history_marks", "history_tombstones"}  # asked for by _id
        return
    match verb:
        case "find":
            filters = [command["filter"]]
        case "aggregate":
            filters = [command["pipeline"][0]["$match"]]
        case "update":
            filters = [update["q"] for update in command["updates"]]
        case "delete":
            filters = [delete["q"] for delete in command["deletes"]]
        case _:
            assert verb == "insert"
            return
    for where in filters:
        plan = await explain(store, collection, where)
        if plan["serverInfo"]["host"] == "secantus":
            # It explains only the part of a filter that bounds an index, though it uses the index all the same.
            plan = await explain(store, collection, bounding_part(collection, where))
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]), where


async def explain(store: Store, collection: str, where: Any) -> Any:
    database = store.events.database
    return await database.command("explain", {"find": collection, "filter": where}, verbosity="queryPlanner")


def bounding_part(collection: str, where: Any) -> dict[str, Any]:
    """The conditions on the first fields of the index that has most of them, up to the first that is no equality."""
    best: dict[str, Any] = {"_id": where["_id"]} if "_id" in where else {}
    for keys, _ in INDEXES[collection]:
        part: dict[str, Any] = {}
        for field, _direction in keys:
            if field not in where:
                break
            part[field] = where[field]
            if isinstance(where[field], dict):
                break
        if len(part) > len(best):
            best = part
    assert best, f"no index of {collection} serves {sorted(where)}"
    return best
