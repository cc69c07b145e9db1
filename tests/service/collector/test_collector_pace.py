"""A large batch does not delay others: admission pauses between its slices."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall_collector.admission import DAY_MS, SLICE_BYTES, SMALL_SLICE_BYTES, Admission
from footfall_collector.event_log import EventLog
from footfall_collector.pipeline import Pipeline
from footfall_collector.redact import Redactor
from footfall_collector.service_clients import IdentityClient
from footfall_collector.sites import Sites

from tests.tools.batches import batch, context, message

CARDS = {"text": "4111111111111111," * 3_500}


@pytest.fixture
async def log(redis_database_url: str) -> AsyncIterator[EventLog]:
    """The log of this test."""
    log = EventLog(redis_database_url, 1, max_bytes=2**28, timeout_ms=20_000, max_concurrent_appends=4)
    await log.check()
    yield log
    await log.close()


async def test_a_small_batch_overtakes_a_large_one_that_is_being_admitted(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[int] = []
    append = log.append

    async def note(entries: Mapping[int, bytes], site_bytes: Mapping[str, int]) -> dict[int, str]:
        appended.append(len(entries[0]))
        return await append(entries, site_bytes)

    monkeypatch.setattr(log, "append", note)
    admission = Admission(Sites(), Redactor(), max_event_age_ms=DAY_MS)
    large, small = batch(*(message("Form", CARDS) for _ in range(16))), batch(message())
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        pipeline = Pipeline(admission, log, IdentityClient(channel), partitions=1)
        await asyncio.gather(pipeline.collect(large, lambda: 1.0), pipeline.collect(small, lambda: 1.0))
    assert len(appended) == 2
    assert appended[0] < SLICE_BYTES < appended[1]


@pytest.mark.parametrize("beacons", [1, 200])
async def test_only_large_beacons_are_admitted_in_small_slices_with_pauses(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, beacons: int
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    sent = batch(
        *(message("Form", {"text": "x" * 700}, context_index=number % beacons) for number in range(200)),
        contexts=[context() for _ in range(beacons)],
    )
    sent_bytes = sum(event.ByteSize() for event in sent.events)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        pipeline = Pipeline(
            Admission(Sites(), Redactor(), max_event_age_ms=DAY_MS), log, IdentityClient(channel), partitions=1
        )
        monkeypatch.setattr("footfall_collector.pipeline.asyncio.sleep", note)
        assert (await pipeline.collect(sent, lambda: 1.0)).stored_count == 200
    if beacons == 1:
        assert len(pauses) > sent_bytes / SMALL_SLICE_BYTES - 1
        assert min(pauses) >= 0.001
    else:
        assert len(pauses) > sent_bytes / SLICE_BYTES - 1
        assert not any(pauses)


def test_admission_in_slices_gives_the_same_result() -> None:
    admission = Admission(Sites(), Redactor(), max_event_age_ms=DAY_MS)
    sent = batch(*(message("Form", CARDS if number % 2 else {}) for number in range(16)), message(""), message())
    same, now = type(sent)(), int(time.time() * 1000)
    same.CopyFrom(sent)
    excluded: dict[int, collector.Outcome] = {}
    stops = sum(1 for _ in admission.admit_in_slices(same, now, excluded))
    assert stops == 16
    assert excluded == admission.admit(sent, now)
    assert same == sent
