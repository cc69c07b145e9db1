"""A receiver is down for five minutes of load, and a relay is killed: nothing is lost, and beacons do not notice."""

import asyncio
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
from footfall_eventlog.log import RELAY_GROUP, stream_key
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.process import running_service
from tests.tools.relay import assert_ordered, running_receiver, running_relay, send, until_received
from tests.tools.suite import running_suite
from tests.tools.visits import Event, event, now_ms

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

DOWN_S = 300.0
VISITS = 20
SITE = "shop"


async def test_a_receiver_that_is_down_for_five_minutes_of_load_misses_nothing(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    with running_suite(tmp_path / "suite", {"LOG_RETENTION_MINUTES": "1"}) as suite:
        async with (
            suite.http() as http,
            running_receiver() as receiver,
            running_relay(suite, tmp_path) as (outlets, first),
            running_service("relay", tmp_path, **outlets.settings),
        ):
            visits = [str(uuid.uuid4()) for _ in range(VISITS)]
            sent: list[Event] = []
            slowest = 0.0
            outlets.webhook("crm", receiver)

            async def load(seconds: float) -> None:
                nonlocal slowest
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    for visit_id in visits:
                        one = event("PageEntered", visit_id, now_ms())
                        began = time.monotonic()
                        await send(http, SITE, [one])
                        slowest = max(slowest, time.monotonic() - began)
                        sent.append(one)
                    await asyncio.sleep(0.5)

            await load(5)
            await until_received(receiver, sent)
            await receiver.stop()
            await load(DOWN_S / 2)
            first.process.kill()
            await load(DOWN_S / 2)
            assert len(sent) > 1_000
            assert slowest < 5.0
            await receiver.start()
            await until_received(receiver, sent, 300)
            assert_ordered(receiver.messages)
            async with Redis.from_url(suite.redis_url) as redis:

                async def is_caught_up() -> bool:
                    groups = {group["name"]: group for group in await redis.xinfo_groups(stream_key(0))}
                    return bool(groups[RELAY_GROUP.encode()]["lag"] == 0)

                await eventually(is_caught_up)


async def test_an_outlet_that_takes_nothing_does_not_fill_the_log(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    bounds = {"COLLECTOR_LOG_MAX_BYTES": "1048576", "LOG_RETENTION_MINUTES": "1"}
    with running_suite(tmp_path / "suite", bounds) as suite:
        async with (
            suite.http() as http,
            running_receiver() as receiver,
            running_relay(suite, tmp_path) as (outlets, process),
        ):
            receiver.answer = lambda _: 500
            outlets.webhook("crm", receiver)
            visit_id = str(uuid.uuid4())
            for _ in range(400):  # several times the bound; the readers that count make room
                data = {"filling": uuid.uuid4().hex * 300}
                await eventually(partial(send, http, SITE, [event("Filled", visit_id, now_ms(), data=data)]), every=0.2)
            receiver.answer = lambda _: 204
            last = event("Last", visit_id, now_ms())
            await send(http, SITE, [last])
            await until_received(receiver, [last])
            assert "the event log no longer holds what an outlet had to take" in process.output()
