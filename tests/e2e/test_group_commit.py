"""Beacons that wait together leave together: many clients, no error, and batches larger than one.

FOOTFALL_LOAD_SECONDS=20 runs the long form; `make test` runs a short one.
"""

import asyncio
import os
import time
import uuid

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

CLIENTS = 64
SECONDS = float(os.environ.get("FOOTFALL_LOAD_SECONDS", "2"))


async def test_single_event_beacons_of_many_clients_share_batches(suite: Suite) -> None:
    before = await batches(suite)
    stop_at = time.monotonic() + SECONDS

    async def client(http: httpx.AsyncClient) -> int:
        visit_id, sent = str(uuid.uuid4()), 0
        while time.monotonic() < stop_at:
            answer = await http.post("/beacon", json=event("PageEntered", visit_id, now_ms()))
            assert answer.status_code == 204, answer.text
            sent += 1
        return sent

    async with suite.http() as http:
        sent = sum(await asyncio.gather(*(client(http) for _ in range(CLIENTS))))
    after = await batches(suite)
    count, events = after[0] - before[0], after[1] - before[1]
    print(f"{sent} beacons, {events / count:.1f} events a batch")  # noqa: T201 - the figure is asked for
    assert events == sent
    assert events / count > 1


async def batches(suite: Suite) -> tuple[float, float]:
    """How many batches the gateway has sent, and how many events were in them."""
    async with suite.http() as http:
        text = (await http.get("/metrics")).text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples["footfall_gateway_batch_events_count"], samples["footfall_gateway_batch_events_sum"]
