"""The collector as a process, with a real log, and with or without identity."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_collector.service_clients import PAUSE_AFTER_FAILURE_S
from footfall_eventlog.log import stream_key
from footfall_servicekit.errors import details_of
from footfall_timeline import partition
from redis.asyncio import Redis

from tests.service.collector.conftest import RecordingIdentity, collect
from tests.tools.batches import batch, context, message, new_uuid
from tests.tools.eventually import eventually
from tests.tools.later import knows_later, later
from tests.tools.process import Running, ServiceProcess

STORED = collector.OUTCOME_STATUS_STORED
REJECTED = collector.OUTCOME_STATUS_REJECTED
UNAVAILABLE = collector.OUTCOME_STATUS_UNAVAILABLE


@pytest.fixture
async def common_redis(own_redis_url: str) -> AsyncIterator[Any]:
    """The Redis of the collector with default settings."""
    async with Redis.from_url(own_redis_url) as redis:
        yield redis


def sign_in(visit_id: str = "") -> Event:
    """Return an event that is sent to identity immediately."""
    return message("SignIn", {"userID": "dana"}, visit_id=visit_id or new_uuid())


async def logged(redis: Any, number: int = 0) -> list[EventBatch]:
    """Return the entries of a partition's log."""
    return [EventBatch.FromString(fields[b"b"]) for _, fields in await redis.xrange(stream_key(number))]


async def logged_about(redis: Any, visit_id: str) -> list[EventBatch]:
    """Return the entries with events of a visit."""
    return [entry for entry in await logged(redis) if any(event.visit_id == visit_id for event in entry.events)]


async def test_a_batch_becomes_one_entry_and_identity_gets_identifying_events(
    service: ServiceProcess, common_redis: Any, recording_identity: RecordingIdentity
) -> None:
    visit_id = new_uuid()
    sent = batch(
        message("VisitStarted", {"timezoneOffset": -60}, visit_id=visit_id),
        message("SignIn", {"userId": "dana"}, visit_id=visit_id),
    )
    assert await collect(service, sent) == collector.CollectResponse(stored_count=2)
    [entry] = await logged_about(common_redis, visit_id)
    assert [event.event_id for event in entry.events] == [event.event_id for event in sent.events]
    assert [event.data_json for event in entry.events] == [b'{"timezoneOffset": -60}', b'{"userID":"dana"}']
    assert entry.contexts[0].address == "203.0.113.0"
    [call] = recording_identity.calls_about(visit_id)
    entry.events[1].ClearField("data_json")  # identity reads the data from the log
    assert [*call.events] == [entry.events[1]]


async def test_a_batch_without_identifying_events_makes_no_call_to_identity(
    service: ServiceProcess, common_redis: Any, recording_identity: RecordingIdentity
) -> None:
    visit_id, calls = new_uuid(), len(recording_identity.calls)
    pages = [message(name, visit_id=visit_id) for name in ("VisitStarted", "PageEntered", "AddToCart", "PageExited")]
    assert (await collect(service, batch(*pages))).stored_count == 4
    assert await logged_about(common_redis, visit_id)
    assert len(recording_identity.calls) == calls


async def test_outcomes_are_in_the_order_of_events_and_good_events_are_stored(
    service: ServiceProcess, common_redis: Any
) -> None:
    good, late = message(), message("AddToCart")
    answer = await collect(service, batch(message(visit_id="SECRET"), good, message(url="u" * 9_000), late))
    assert [(outcome.status, outcome.reason, outcome.message) for outcome in answer.outcomes] == [
        (REJECTED, collector.REJECT_REASON_INVALID_VISIT_ID, "visitID: must be a UUID"),
        (STORED, 0, ""),
        (REJECTED, collector.REJECT_REASON_INVALID_URL, "url: must have at most 8,192 characters"),
        (STORED, 0, ""),
    ]
    assert answer.stored_count == 2
    [entry] = await logged_about(common_redis, good.visit_id)
    assert [event.event_id for event in entry.events] == [good.event_id, late.event_id]
    assert "SECRET" not in service.output()


async def test_a_batch_of_invalid_events_reaches_neither_log_nor_identity(
    service: ServiceProcess, common_redis: Any, recording_identity: RecordingIdentity
) -> None:
    before = await common_redis.xlen(stream_key(0)), len(recording_identity.calls)
    answer = await collect(service, batch(message(""), message("")))
    assert (answer.stored_count, len(answer.outcomes)) == (0, 2)
    assert (await common_redis.xlen(stream_key(0)), len(recording_identity.calls)) == before


async def test_an_invalid_batch_is_rejected_as_a_whole(service: ServiceProcess) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await collect(service, EventBatch())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(refused.value).violations == (("batch.events", "must be 1 to 1000 events"),)


async def test_the_largest_batch_is_accepted(service: ServiceProcess, common_redis: Any) -> None:
    visit_id = new_uuid()
    sent = batch(*(message(data={"text": "x" * 900}, visit_id=visit_id) for _ in range(1_000)))
    assert (await collect(service, sent)).stored_count == 1_000
    [entry] = await logged_about(common_redis, visit_id)
    assert len(entry.events) == 1_000


async def test_batches_run_concurrently(service: ServiceProcess, recording_identity: RecordingIdentity) -> None:
    recording_identity.delay_s = 0.5
    try:
        answers = await asyncio.gather(*(collect(service, batch(sign_in())) for _ in range(20)))
    finally:
        recording_identity.delay_s = 0
    assert [answer.stored_count for answer in answers] == [1] * 20
    assert recording_identity.most_at_once > 1


async def test_each_partition_gets_only_its_events_and_contexts(running_collector: Running, redis: Any) -> None:
    visits = [new_uuid() for _ in range(30)]
    sent = batch(
        *(message(visit_id=visit, context_index=number) for number, visit in enumerate(visits)),
        contexts=[context(traceparent=visit) for visit in visits],
    )
    async with running_collector(PARTITIONS=4) as service:
        assert (await collect(service, sent)).stored_count == 30
    for number in range(4):
        [entry] = await logged(redis, number)
        mine = [visit for visit in visits if partition(visit, 4) == number]
        assert [event.visit_id for event in entry.events] == mine
        assert [entry.contexts[event.context_index].traceparent for event in entry.events] == mine
        assert len(entry.contexts) == len(mine)


async def test_events_of_a_rejecting_partition_are_unavailable_or_an_internal_error(
    running_collector: Running, redis: Any, recording_identity: RecordingIdentity
) -> None:
    await redis.set(stream_key(1), "not a stream")
    sent = batch(*(sign_in() for _ in range(20)), message(""))
    is_lost = [partition(event.visit_id, 2) == 1 for event in sent.events]
    async with running_collector(PARTITIONS=2) as service:
        answer = await collect(service, sent)
        rejected = batch(*(event for event, lost in zip(sent.events, is_lost, strict=True) if lost))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await collect(service, rejected)
    assert refused.value.code() is grpc.StatusCode.INTERNAL, "not UNAVAILABLE, which is retried"
    expected = [UNAVAILABLE if lost else STORED for lost in is_lost[:-1]]
    assert [outcome.status for outcome in answer.outcomes] == [*expected, REJECTED]
    assert answer.stored_count == expected.count(STORED)
    assert len(recording_identity.calls[-1].events) == answer.stored_count


async def test_unknown_fields_of_a_later_gateway_are_passed_on(
    service: ServiceProcess, common_redis: Any, recording_identity: RecordingIdentity
) -> None:
    event = later(message("SignIn", {"userID": "dana"}))
    assert (await collect(service, later(batch(event, contexts=[later(context())])))).stored_count == 1
    [entry] = await logged_about(common_redis, event.visit_id)
    assert [knows_later(part) for part in (entry, entry.events[0], entry.contexts[0])] == [True] * 3
    [call] = recording_identity.calls_about(event.visit_id)
    assert knows_later(call.events[0])


class TestLog:
    async def test_a_full_log_is_reported_with_a_retry_delay(self, running_collector: Running) -> None:
        async with running_collector(COLLECTOR_LOG_MAX_BYTES=1_024) as service:
            await collect(service, batch(message(data={"text": "x" * 10_000})))
            await asyncio.sleep(1.1)  # until the log is measured again
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(service, batch(message()))
        details = details_of(refused.value)
        assert (details.code, details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOG_FULL")
        assert details.retry_ms

    async def test_an_unresponsive_redis_is_reported_with_a_retry_delay(
        self, running_collector: Running, redis: Any
    ) -> None:
        async with running_collector(COLLECTOR_REDIS_TIMEOUT_MS=1_000) as service:
            await redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await collect(service, batch(message()))
            await redis.execute_command("CLIENT", "UNPAUSE")
            assert (await collect(service, batch(message()))).stored_count == 1
        details = details_of(refused.value)
        assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE")
        assert details.retry_ms

    async def test_another_number_of_partitions_ends_the_process(self, running_collector: Running) -> None:
        async with running_collector(PARTITIONS=2):
            pass
        async with running_collector(PARTITIONS=3) as service:
            assert service.process.wait(30) == 2
            assert "Set PARTITIONS=2 for every service" in service.output()


async def test_settings_work_under_their_old_names_with_a_warning(running_collector: Running) -> None:
    old = {"COLLECTOR_LOG_BOUND_BYTES": 1_024, "COLLECTOR_LOG_TIMEOUT_MS": 1, "COLLECTOR_REDIS_TIMEOUT_MS": 2_000}
    async with running_collector(**old) as service:
        await collect(service, batch(message(data={"text": "x" * 10_000})))
        await asyncio.sleep(1.1)  # until it samples again
        with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
            await collect(service, batch(message()))
        lines = [line for line in map(json.loads, service.output().splitlines()) if "new name" in line["event"]]
    assert [(line["level"], line["old"], line["new"], line["used"]) for line in lines] == [
        ("warning", "COLLECTOR_LOG_BOUND_BYTES", "COLLECTOR_LOG_MAX_BYTES", "COLLECTOR_LOG_BOUND_BYTES"),
        ("warning", "COLLECTOR_LOG_TIMEOUT_MS", "COLLECTOR_REDIS_TIMEOUT_MS", "COLLECTOR_REDIS_TIMEOUT_MS"),
    ]


async def test_a_site_that_has_its_share_waits_and_the_others_need_not(running_collector: Running) -> None:
    loud, quiet = message(data={"text": "x" * 50_000}, site="loud"), message(site="quiet")
    async with running_collector(COLLECTOR_LOG_MAX_BYTES=200_000) as service:
        for _ in range(2):
            assert (await collect(service, batch(loud, quiet))).stored_count == 2
        answer = await collect(service, batch(quiet, loud, message(event_name="", site="loud")))
        statuses = [outcome.status for outcome in answer.outcomes]
    assert statuses == [
        collector.OUTCOME_STATUS_STORED,
        collector.OUTCOME_STATUS_UNAVAILABLE,
        collector.OUTCOME_STATUS_REJECTED,
    ]
    assert answer.stored_count == 1


async def test_the_keys_of_the_user_id_are_a_setting(running_collector: Running, redis: Any) -> None:
    async with running_collector(COLLECTOR_USER_ID_KEYS="customerId, loginName") as service:
        sent = [message("SignIn", {"email": "dana@b.de", **data}) for data in ({}, {"loginName": "dana"})]
        assert (await collect(service, batch(*sent))).stored_count == 1
    [entry] = await logged(redis)
    assert [event.identity_id for event in entry.events] == ["dana"]


@pytest.mark.parametrize(
    ("setting", "text", "problem"),
    [
        ("SITES_FILE", '[[site]]\nname = "the shop"', "site 'the shop': the name must have"),
        ("CATEGORIES_FILE", '[[category]]\nname = "cars"\ntags = []', "category 'cars': must have tags"),
    ],
)
async def test_an_invalid_file_ends_the_process_with_an_explanation(
    setting: str, text: str, problem: str, running_collector: Running, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    async with running_collector(**{setting: file}) as service:
        assert service.process.wait(30) == 2
        assert f"The settings are wrong:\n  {setting}: {file}: {problem}" in service.output()
        assert "Traceback" not in service.output()


async def test_events_without_categories_get_those_of_the_file_as_it_is_now(
    running_collector: Running, redis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "categories.toml"
    file.write_text('[[category]]\nname = "loans"\ntags = [{ in = "url", text = "/loans/" }]')
    async with running_collector(CATEGORIES_FILE=file) as service:
        events = [message(url="https://shop.example/loans/", category=category) for category in ("", "own")]
        await collect(service, batch(*events, message(url="https://shop.example/")))
        [entry] = await logged(redis)
        assert [event.category for event in entry.events] == ["loans", "own", ""]
        file.write_text('[[category]]\nname = "home"\ntags = [{ in = "url", regex = "/$" }]')
        await eventually(lambda: "files have changed and are in use" in service.output())
        await collect(service, batch(*events))
        _, entry = await logged(redis)
        assert [event.category for event in entry.events] == ["home", "own"]


async def test_the_identity_policy_is_that_of_the_file_as_it_is_now(
    running_collector: Running, redis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('version = "one"\nplaceholders = ["gast"]\nuser_id_keys = ["login"]')
    sent = [message("SignIn", {"login": user, "mail": "test@test.com"}) for user in ("Gast ", "guest", "dana")]
    async with running_collector(IDENTITY_POLICY_FILE=file) as service:

        async def decisions() -> list[tuple[str, int, str]]:
            answer = await collect(service, batch(*sent))
            assert answer.stored_count == 3
            *_, entry = await logged(redis)
            reasons = [event.ignored_reason for event in entry.events]
            assert [outcome.ignored_reason for outcome in answer.outcomes] == (reasons if any(reasons) else [])
            assert [[*event.ignored_keys] for event in entry.events] == [
                [] if reason else ["mail"] for reason in reasons
            ]
            return [(event.identity_id, event.transition, event.policy_version) for event in entry.events]

        first = [("", 0, "one+defaults-1"), ("", 0, "one+defaults-1"), ("dana", 2, "one+defaults-1")]
        assert await decisions() == first
        file.write_text('version = "two"\nplaceholder = []')
        await eventually(lambda: f"{file}:2: Object contains unknown field `placeholder`" in service.output())
        assert await decisions() == first
        file.write_text('version = "two"\nuser_id_keys = ["login"]\n[[site]]\nname = "default"\npersons = ["guest"]')
        await eventually(lambda: "files have changed and are in use" in service.output())
        second = [("Gast ", 2, "two+defaults-1"), ("guest", 2, "two+defaults-1"), ("dana", 2, "two+defaults-1")]
        assert await decisions() == second


async def test_who_is_staff_is_in_the_policy_file_as_it_is_now(
    running_collector: Running, redis: Any, tmp_path: Path
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('version = "one"\nstaff_networks = ["198.51.100.0/24"]')
    contexts = [context(address=address) for address in ("198.51.100.7", "203.0.113.7")]
    async with running_collector(IDENTITY_POLICY_FILE=file) as service:

        async def reasons() -> list[int]:
            events = [message(site="desk", context_index=index) for index in range(2)]
            assert (await collect(service, batch(*events, contexts=contexts))).stored_count == 2
            *_, entry = await logged(redis)
            return [event.staff_reason for event in entry.events]

        assert await reasons() == [event_pb2.STAFF_REASON_ADDRESS, event_pb2.STAFF_REASON_UNSPECIFIED]
        file.write_text('version = "two"\n[[site]]\nname = "desk"\nstaff = true')
        await eventually(lambda: "files have changed and are in use" in service.output())
        assert await reasons() == [event_pb2.STAFF_REASON_SITE] * 2


class TestIdentityDown:
    async def test_without_identity_events_are_stored(self, running_collector: Running, redis: Any) -> None:
        async with running_collector(IDENTITY_TARGET="127.0.0.1:1") as service:
            for _ in range(5):
                assert (await collect(service, batch(message("SignIn", {"userID": "dana"})))).stored_count == 1
            assert service.output().count("ResolveEvents failed") == 1
        assert len(await logged(redis)) == 5

    async def test_a_slow_identity_is_called_once_a_second(
        self, running_collector: Running, recording_identity: RecordingIdentity
    ) -> None:
        visit_id = new_uuid()
        recording_identity.delay_s = 30
        async with running_collector(COLLECTOR_IDENTITY_TIMEOUT_MS=400) as service:
            started = time.monotonic()
            for _ in range(20):
                assert (await collect(service, batch(sign_in(visit_id)))).stored_count == 1
            calls = len(recording_identity.calls_about(visit_id))
            assert 1 <= calls <= 1 + (time.monotonic() - started) / PAUSE_AFTER_FAILURE_S

            recording_identity.delay_s = 0
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S + 0.4)
            await collect(service, batch(sign_in(visit_id)))
            await collect(service, batch(sign_in(visit_id)))
            assert len(recording_identity.calls_about(visit_id)) == calls + 2

            recording_identity.error = grpc.StatusCode.INTERNAL
            for _ in range(2):
                await collect(service, batch(sign_in(visit_id)))
            recording_identity.error = None
            assert len(recording_identity.calls_about(visit_id)) == calls + 4, "only transient errors make a pause"

    async def test_the_callers_deadline_is_kept(
        self, running_collector: Running, recording_identity: RecordingIdentity
    ) -> None:
        recording_identity.delay_s = 30
        try:
            async with running_collector(COLLECTOR_IDENTITY_TIMEOUT_MS=10_000) as service:
                assert (await collect(service, batch(sign_in()), timeout_s=3)).stored_count == 1
        finally:
            recording_identity.delay_s = 0
