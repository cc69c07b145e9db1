"""Live visitors and their transitions as contact-center services see them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1 import visitor_pb2
from footfall_identity import change_feed
from footfall_identity.change_feed import ChangeFeed
from footfall_identity.link_store import LinkStore
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_notices import VisitorNotices
from footfall_identity.visitor_store import VisitorStore
from footfall_identity.watch_filter import WatchFilter
from footfall_servicekit.errors import ErrorDetails, RequestError, details_of
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from tests.service.identity.conftest import visitor_store
from tests.tools.eventually import eventually
from tests.tools.identity import admitted, new_id, resolve
from tests.tools.process import Running
from tests.tools.visits import now_ms

ANONYMOUS, RECOGNIZED, AUTHENTICATED = (
    visitor_pb2.VISITOR_STATE_ANONYMOUS,
    visitor_pb2.VISITOR_STATE_RECOGNIZED,
    visitor_pb2.VISITOR_STATE_AUTHENTICATED,
)


async def test_visitors_are_listed_with_tokens_of_their_request(running_identity: Running) -> None:
    events = [admitted("SignIn", new_id(), now_ms() + n, "ann") for n in range(3)]
    async with running_identity() as identity, identity.stub() as stub:
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))
        request = pb.ListVisitorsRequest(state=AUTHENTICATED, page_size=2)
        first = await stub.ListVisitors(request)
        assert [v.visit_id for v in first.visitors] == [events[2].visit_id, events[1].visit_id]
        request.page_token = first.next_page_token
        second = await stub.ListVisitors(request)
        assert [v.visit_id for v in second.visitors] == [events[0].visit_id]
        assert second.next_page_token == ""
        request.site = "other"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListVisitors(request)
        assert details_of(refused.value).violations[0][0] == "page_token"


class Watching:
    """A call of WatchVisitors that stores its messages."""

    def __init__(self, stub: Any, request: pb.WatchVisitorsRequest) -> None:
        self._call = stub.WatchVisitors(request)
        self.messages: list[Any] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._call:
            self.messages.append(message)

    async def has_begun(self) -> None:
        await self._call.initial_metadata()

    async def has(self, count: int) -> list[Any]:
        await eventually(lambda: len(self.messages) >= count)
        assert len(self.messages) == count
        return self.messages

    async def end(self) -> None:
        self._call.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def summary(message: Any) -> tuple[str, int, str, int, str]:
    visitor = message.visitor
    return (visitor.visit_id, message.previous_state, message.previous_identity_id, visitor.state, visitor.identity_id)


async def visit_of(stub: Any, *names: str, person: str = "ann", site: str = "default") -> str:
    """Resolve some events of a new visit, one call each."""
    visit_id, at = new_id(), now_ms()
    for number, name in enumerate(names):
        user = "" if name in {"SignOut", "PageEntered"} else person
        event = admitted(name, visit_id, at + number, user, site=site)
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=[event]))
    return visit_id


@pytest.fixture
def site() -> str:
    """A site for this test only."""
    return new_id()


async def watching(stub: Any, **request: Any) -> Watching:
    """Start to watch; return when the server reads."""
    watching = Watching(stub, pb.WatchVisitorsRequest(**request))
    await asyncio.sleep(0.3)
    return watching


async def test_each_transition_is_reported_with_the_previous_state(shared_stub: Any, site: str) -> None:
    watched = await watching(shared_stub, site=site)
    await visit_of(shared_stub, "SignIn", site="another")
    visit_id = await visit_of(shared_stub, "PageEntered", "UserInfo", "SignIn", "SignOut", site=site)
    assert [summary(message) for message in await watched.has(4)] == [
        (visit_id, ANONYMOUS, "", ANONYMOUS, ""),
        (visit_id, ANONYMOUS, "", RECOGNIZED, "ann"),
        (visit_id, RECOGNIZED, "ann", AUTHENTICATED, "ann"),
        (visit_id, AUTHENTICATED, "ann", RECOGNIZED, "ann"),
    ]
    assert abs(watched.messages[0].change_time.ToMilliseconds() - now_ms()) < 60_000
    await watched.end()


async def test_a_watcher_resumes_after_any_message_and_misses_nothing(shared_stub: Any, site: str) -> None:
    watched = await watching(shared_stub, site=site)
    for person in ("ann", "bob", "cy", "di", "ed"):
        await visit_of(shared_stub, "SignIn", "SignOut", person=person, site=site)
    messages = list(await watched.has(10))
    await watched.end()
    for number in (0, 4, 9):
        resumed = await watching(shared_stub, site=site, resume_token=messages[number].resume_token)
        await visit_of(shared_stub, "SignIn", person="late", site=site)
        expected = {summary(message) for message in messages[number + 1 :]}
        got = await resumed.has(len(messages) - number)
        assert {summary(message) for message in got[:-1]} == expected
        assert got[-1].visitor.identity_id == "late"
        await resumed.end()
        messages.append(got[-1])


@pytest.mark.parametrize("token", ["x", "1-0", "1-0.1-0.1-0.1-0", "1-0.1-0.a-0", "9" * 50])
async def test_a_foreign_token_is_refused(shared_stub: Any, token: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await shared_stub.WatchVisitors(pb.WatchVisitorsRequest(resume_token=token)).read()
    assert details_of(refused.value).violations[0][0] == "resume_token"


async def test_a_token_whose_changes_are_gone_is_refused(running_identity: Running, redis: Any) -> None:
    async with running_identity(IDENTITY_CHANGELOG_MAX_ENTRIES=100) as identity, identity.stub() as stub:
        watched = await watching(stub)
        await visit_of(stub, "SignIn")
        [message] = await watched.has(1)
        await watched.end()
        events = [admitted("SignIn", new_id(), now_ms(), "ann") for _ in range(1_000)]
        await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WatchVisitors(pb.WatchVisitorsRequest(resume_token=message.resume_token)).read()
        assert details_of(refused.value).reason == "RESUME_TOKEN_EXPIRED"


async def test_a_watcher_that_does_not_read_is_ended_and_can_resume(running_identity: Running) -> None:
    async with running_identity(IDENTITY_WATCH_BUFFER_MESSAGES=100) as identity, identity.stub() as stub:
        slow = stub.WatchVisitors(pb.WatchVisitorsRequest())
        await asyncio.sleep(0.3)
        await visit_of(stub, "SignIn")
        token = (await anext(aiter(slow))).resume_token
        total = 0
        # Enough to fill the buffers of the transport too.
        for _ in range(8):
            url = "https://shop.example/" + "x" * 8_000
            events = [admitted("SignIn", new_id(), now_ms(), "ann", url=url) for _ in range(100)]
            await stub.ResolveEvents(pb.ResolveEventsRequest(events=events))
            total += len(events)
        await asyncio.sleep(1)  # until the buffer has dropped them
        visits: set[str] = set()
        ended = None
        while len(visits) < total:
            try:
                async for message in slow:
                    visits.add(message.visitor.visit_id)
                    token = message.resume_token
                    if len(visits) == total:
                        break
            except grpc.aio.AioRpcError as error:
                ended = details_of(error)
                assert len(visits) < total
                slow = stub.WatchVisitors(pb.WatchVisitorsRequest(resume_token=token))
        assert ended is not None
        assert ended.reason == "WATCHER_TOO_SLOW"


@asynccontextmanager
async def running_feed(
    store: VisitorStore,
    links: LinkStore,
    notices: VisitorNotices,
    partitions: Partitions,
    *,
    buffer_messages: int = 100,
) -> AsyncIterator[ChangeFeed]:
    """Run a feed, and wait until it has ended."""
    stopping = asyncio.Event()
    feed = ChangeFeed(store, links, notices, partitions.numbers, buffer_messages=buffer_messages, stopping=stopping)
    running = asyncio.create_task(feed.run())
    yield feed
    stopping.set()
    await asyncio.wait_for(running, 30)


@pytest.fixture
async def feed(
    store: VisitorStore, links: LinkStore, notices: VisitorNotices, partitions: Partitions
) -> AsyncIterator[ChangeFeed]:
    async with running_feed(store, links, notices, partitions) as feed:
        yield feed


async def messages_from_now(feed: ChangeFeed) -> AsyncIterator[Any]:
    """The messages of a call that has begun."""
    messages = feed.watch(pb.WatchVisitorsRequest(announce_progress=True), WatchFilter())
    await anext(messages)
    return messages


async def test_the_feed_survives_an_unexpected_error(
    partitions: Partitions, store: VisitorStore, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = await messages_from_now(feed)
    read, failures = store.changes, iter([KeyError] * len(partitions.numbers))

    async def read_after_failing(*arguments: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return await read(*arguments)

    monkeypatch.setattr(store, "changes", read_after_failing)
    await eventually(lambda: next(failures, None) is None)
    [visit] = await resolve(store, admitted("SignIn", new_id(), now_ms(), "ann"))
    assert (await asyncio.wait_for(anext(messages), 30)).visitor.visit_id == visit.visit_id


async def test_a_change_after_a_pause_is_reported_immediately(
    store: VisitorStore, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_feed, "_GATHER_S", 60)
    messages = await messages_from_now(feed)
    [visit] = await resolve(store, admitted("SignIn", new_id(), now_ms(), "ann"))
    assert (await asyncio.wait_for(anext(messages), 30)).visitor.visit_id == visit.visit_id


async def test_a_call_that_cannot_know_where_to_begin_fails(
    store: VisitorStore, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(_number: int) -> tuple[str, str]:
        raise RequestError.unavailable("Redis does not answer", 1)

    monkeypatch.setattr(store, "change_bounds", unavailable)
    with pytest.raises(RequestError, match="Redis does not answer"):
        await anext(feed.watch(pb.WatchVisitorsRequest(announce_progress=True), WatchFilter()))
    monkeypatch.undo()
    assert (await anext(feed.watch(pb.WatchVisitorsRequest(announce_progress=True), WatchFilter()))).resume_token


async def test_a_feed_that_misses_changes_ends_its_calls(
    partitions: Partitions,
    links: LinkStore,
    notices: VisitorNotices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = visitor_store(partitions, changelog_max_entries=100)
    can_read = asyncio.Event()
    async with running_feed(store, links, notices, partitions, buffer_messages=10_000) as feed:
        messages = await messages_from_now(feed)
        monkeypatch.setattr(store, "changes", _after(can_read, store.changes))
        for _ in range(4):
            await resolve(store, *(admitted("SignIn", new_id(), now_ms(), "ann") for _ in range(1_000)))
        can_read.set()
        with pytest.raises(RequestError) as ended:
            await asyncio.wait_for(_read_all(messages), 30)
        assert ended.value.reason == "RESUME_TOKEN_EXPIRED"

        async def a_new_call_gets_changes() -> None:
            again = await messages_from_now(feed)
            [visit] = await resolve(store, admitted("SignIn", new_id(), now_ms(), "ann"))
            try:
                while (await asyncio.wait_for(anext(again), 30)).visitor.visit_id != visit.visit_id:
                    pass
            except RequestError as error:
                raise AssertionError("the feed has not passed the lost changes yet") from error

        await eventually(a_new_call_gets_changes)


async def test_a_token_of_a_process_that_has_read_more_brings_no_change_twice(
    partitions: Partitions, store: VisitorStore, feed: ChangeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    can_read = asyncio.Event()
    await anext(feed.watch(pb.WatchVisitorsRequest(announce_progress=True), WatchFilter()))
    monkeypatch.setattr(store, "changes", _after(can_read, store.changes))
    await resolve(store, admitted("SignIn", new_id(), now_ms(), "ann"))
    token = ".".join([(await store.change_bounds(number))[1] for number in partitions.numbers])
    messages = feed.watch(pb.WatchVisitorsRequest(resume_token=token), WatchFilter())
    first = asyncio.ensure_future(anext(messages))
    await asyncio.sleep(0.3)
    can_read.set()
    [late] = await resolve(store, admitted("SignIn", new_id(), now_ms(), "bob"))
    assert (await asyncio.wait_for(first, 30)).visitor.visit_id == late.visit_id


def _after(event: asyncio.Event, call: Any) -> Any:
    async def wait_and_call(*arguments: Any) -> Any:
        await event.wait()
        return await call(*arguments)

    return wait_and_call


async def _read_all(messages: Any) -> None:
    async for _ in messages:
        pass


async def test_watch_calls_end_when_the_process_stops(running_identity: Running) -> None:
    async with running_identity() as identity, identity.stub() as stub:
        watched = await watching(stub)
        identity.process.terminate()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await asyncio.wait_for(watched.task, 30)
        assert details_of(ended.value).reason == "STOPPING"
        assert await asyncio.to_thread(identity.process.wait, 30) == 0


async def test_watchers_are_bounded_and_nobody_else_is_refused_because_of_them(running_identity: Running) -> None:
    async def refusal(call: Any) -> ErrorDetails | None:
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return details_of(error)
        return None

    async with (
        running_identity() as identity,
        identity.stub() as stub,
        grpc.aio.insecure_channel(identity.target) as channel,
    ):
        calls = [stub.WatchVisitors(pb.WatchVisitorsRequest(announce_progress=True)) for _ in range(300)]
        refusals = [details for details in await asyncio.gather(*map(refusal, calls)) if details]
        assert len(refusals) == 300 - 256
        assert {details.code for details in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert all(details.retry_ms for details in refusals)
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        visit_id = await visit_of(stub, "SignIn")
        listed = await stub.ListVisitors(pb.ListVisitorsRequest())
        assert [visitor.visit_id for visitor in listed.visitors] == [visit_id]
