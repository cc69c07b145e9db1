"""Known visitors: stores many of them in live state, and measures what they cost an event."""

import time
import uuid
from dataclasses import dataclass
from statistics import median

import grpc
from footfall.event.v1 import event_pb2
from footfall.identity.v1.identity_service_pb2 import ResolveEventsRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub

from bench.load import Profile, run
from bench.meter import Meter
from tests.tools.suite import Program, Suite

BATCH = 1_000
FEW = 1_000
DAYS = 7
PATH: tuple[Program, ...] = ("gateway", "collector", "identity", "valkey")
PROFILE = Profile("known visitors", 10, 64)
ROUNDS = 10


@dataclass(frozen=True)
class Visitors:
    """CPU of the beacon's path an event, by program and round, with FEW and with `many` known visitors."""

    many: int
    few_us: list[dict[str, float]]
    many_us: list[dict[str, float]]

    @property
    def ratio(self) -> float:
        """How much dearer many are; the median of the rounds' own ratios."""
        return median(
            sum(many.values()) / sum(few.values()) for few, many in zip(self.few_us, self.many_us, strict=True)
        )


def visit_id(number: int) -> str:
    """The id of a known visit, as beacons.lua computes it."""
    return f"00000000-0000-4000-8000-{number:012x}"


def measure(few: Suite, many: Suite, count: int, seconds: int) -> Visitors:
    """Let one suite know FEW visitors and another `count`, then load them in turn, each while the other is held.

    They were last seen at any time of the last week, so few of them are on the site when they come back.
    """
    few_meter, many_meter = Meter(few), Meter(many)
    few_us: list[dict[str, float]] = []
    many_us: list[dict[str, float]] = []
    with few_meter.holding("history", "mongo"), many_meter.holding("history", "mongo"):
        make(few, range(FEW), days=DAYS, are_known=True)
        make(many, range(count), days=DAYS, are_known=True)
        while many_meter.redis.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.1)
        for number in range(ROUNDS):
            turns = [(few, few_meter, many_meter, FEW, few_us), (many, many_meter, few_meter, count, many_us)]
            for suite, meter, other, known, measured in turns if number % 2 else reversed(turns):
                with other.holding(*PATH):
                    measured.append(_path_us(suite, meter, known, seconds))
    return Visitors(count, few_us, many_us)


def _path_us(suite: Suite, meter: Meter, known: int, seconds: int) -> dict[str, float]:
    before = meter.state()
    run(suite.url, PROFILE, seconds, known_visits=known)
    cost = meter.state().since(before)
    meter.drain("identity")
    return {name: cost.cpu_us[name] for name in PATH}


def make(suite: Suite, numbers: range, *, days: int, are_known: bool) -> None:
    """Store visits by number in live state only, spread over so many days until now. Known ones have signed in."""
    now_ms = time.time_ns() // 1_000_000
    apart_ms = days * 86_400_000 // len(numbers)
    with grpc.insecure_channel(suite.targets["identity"]) as channel:
        resolve = IdentityServiceStub(channel).ResolveEvents
        for first in range(0, len(numbers), BATCH):
            part = numbers[first : first + BATCH]
            events = [_event(number, now_ms - number * apart_ms, signs_in=are_known) for number in part]
            resolve(ResolveEventsRequest(events=events), timeout=10)


def _event(number: int, at_ms: int, *, signs_in: bool) -> event_pb2.Event:
    event = event_pb2.Event(
        event_id=str(uuid.uuid4()),
        visit_id=visit_id(number),
        global_visit_id=visit_id(number),
        event_name="PageEntered",
        event_time_ms=at_ms,
        site="default",
        url=f"https://www.shop.example/catalogue/section-{number % 12}/article-{number % 9973}.html",
    )
    if signs_in:
        event.event_name = "SignIn"
        event.transition = event_pb2.TRANSITION_KIND_SIGN_IN
        event.assurance = event_pb2.ASSURANCE_CLAIMED
        event.identity_id = f"visitor-{number}@shop.example"
    return event
