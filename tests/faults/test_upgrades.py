"""Services replaced one after the other under load, and calls with fields of a later version."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from footfall.collector.v1 import collector_service_pb2
from footfall.history.v1 import history_service_pb2
from footfall.identity.v1 import identity_service_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.chaos.clients import NO_ANSWER
from tests.chaos.comparison import Differences, compare, drain
from tests.chaos.run import DRAIN_TIMEOUT_S, retrying_clients
from tests.tools.eventually import eventually
from tests.tools.later import FIELD
from tests.tools.suite import Program, Suite

pytestmark = pytest.mark.long

REPLACED: tuple[Program, ...] = ("history", "identity", "collector", "gateway")
METHODS = [
    (service, method)
    for service, file in {
        "collector": collector_service_pb2,
        "identity": identity_service_pb2,
        "history": history_service_pb2,
    }.items()
    for method in file.DESCRIPTOR.services_by_name[f"{service.title()}Service"].methods
    if not method.server_streaming
]


@pytest.mark.timeout(240)
async def test_replacing_each_service_under_load_costs_only_retries(suite: Suite) -> None:
    async with retrying_clients(suite, seed=2) as ledger:
        for program in REPLACED:
            began = time.monotonic()
            await asyncio.to_thread(suite.stop, program)
            await asyncio.to_thread(suite.start, program)
            await eventually(lambda: asyncio.to_thread(suite.is_ready), timeout=30)
    without_answer = [answer for answer in ledger.answers if answer.status == NO_ANSWER]
    assert [answer for answer in ledger.answers if not answer.is_documented] == []
    assert all(answer.ended > began for answer in without_answer), "only the gateway refuses connections"
    await drain(suite, DRAIN_TIMEOUT_S)
    assert await compare(suite, ledger.reference) == Differences()


@pytest.mark.parametrize(("service", "method"), METHODS, ids=lambda value: getattr(value, "name", value))
async def test_a_call_with_fields_of_a_later_version_is_answered_the_same(
    suite: Suite, service: str, method: MethodDescriptor
) -> None:
    async with suite.channel(service) as channel:
        call: Any = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
        assert await outcome(call, FIELD) == await outcome(call, b"")


async def outcome(call: Any, request: bytes) -> grpc.StatusCode:
    try:
        await call(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
