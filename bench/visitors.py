"""Turns a number into so many known visitors, and tells what one of them takes and what they all cost an event."""

import time
import uuid
from dataclasses import dataclass

import grpc
from footfall.event.v1 import event_pb2
from footfall.identity.v1.identity_service_pb2 import ResolveEventsRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from bench.load import Profile, run
from bench.meter import Meter
from tests.tools.suite import Suite

BATCH = 1_000
FEW = 1_000
PATH = ("gateway", "collector", "identity", "valkey")
PROFILE = Profile("known visitors", 10, 64)
ROUNDS = 2


@dataclass(frozen=True)
class Visitors:
    """`few_us` and `many_us`: CPU of the beacon's path an event with FEW and with `many` known visitors."""

    many: int
    bytes_each: float
    few_us: float
    many_us: float


def visit_id(number: int) -> str:
    """The id of a known visit, as beacons.lua computes it."""
    return f"00000000-0000-4000-8000-{number:012x}"


def measure(suite: Suite, meter: Meter, many: int, seconds: int) -> Visitors:
    """Measure with few, make them many, measure again."""
    with meter.holding("history", "mongo"):
        _make_known(suite, 0, FEW)
        few_us = _path_us(suite, meter, FEW, seconds)
        before = meter.redis.info("memory")["used_memory"]
        _make_known(suite, FEW, many)
        bytes_each = (meter.redis.info("memory")["used_memory"] - before) / (many - FEW)
        return Visitors(many, bytes_each, few_us, _path_us(suite, meter, many, seconds))


def _path_us(suite: Suite, meter: Meter, known: int, seconds: int) -> float:
    """The least of a few runs: what disturbs a run only ever adds."""
    costs = []
    for _ in range(ROUNDS):
        before = meter.state()
        run(suite.url, PROFILE, seconds, known_visits=known)
        cost = meter.state().since(before)
        costs.append(sum(cost.cpu_us[name] for name in PATH))
        meter.drain("identity")
    return min(costs)


def _make_known(suite: Suite, start: int, stop: int) -> None:
    """Let identity know visits by number, one in twenty of them signed in. The log and history hear nothing of them."""
    now_ms = time.time_ns() // 1_000_000
    with grpc.insecure_channel(suite.targets["identity"]) as channel:
        resolve = IdentityServiceStub(channel).ResolveEvents
        for first in range(start, stop, BATCH):
            events = [_event(number, now_ms) for number in range(first, min(first + BATCH, stop))]
            resolve(ResolveEventsRequest(events=events), timeout=10)


def _event(number: int, now_ms: int) -> event_pb2.Event:
    event = event_pb2.Event(
        event_id=str(uuid.uuid4()),
        visit_id=visit_id(number),
        global_visit_id=visit_id(number),
        event_name="PageEntered",
        event_time_ms=now_ms,
        site="default",
        url=f"https://www.shop.example/catalogue/section-{number % 12}/article-{number % 9973}.html",
    )
    if number % 20 == 0:
        event.event_name = "SignIn"
        event.transition = event_pb2.TRANSITION_KIND_SIGN_IN
        event.assurance = event_pb2.ASSURANCE_CLAIMED
        event.identity_id = f"visitor-{number}@shop.example"
    return event
