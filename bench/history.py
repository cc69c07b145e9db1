"""Turns two numbers of stored events into what the commonest queries take with each, and into their ratios.

`make bench-history` measures and writes docs/dev/performance.md; `python -m bench.history --quick` only prints.
"""

import argparse
import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Final, Literal, NamedTuple, assert_never

import grpc
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships none

from bench.page import measured, table, write
from bench.past import PAGES_A_LONG_VISIT, Past, fill
from bench.suite import fresh_suite
from deploy.embedded import kept_keys
from tests.tools.suite import Suite

ITEMS = 100
INDEXES_SECONDS = 400.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Extent:
    """How many events are stored, on one side and on the other, and how often each query is asked there.

    `longest`: how many more there are of one visit, on the side of the many.
    """

    few: int
    many: int
    longest: int
    samples: int


FULL = Extent(10_000, 1_000_000, 100_000, 500)
QUICK = Extent(10_000, 50_000, 20_000, 50)

Parent = Literal["a visit", "an identity", "the longest visit"]


class Query(NamedTuple):
    """A list of what belongs to a parent, or a visit itself."""

    items: Literal["events", "visits", "pages", "visit"]
    parent: Parent


QUERIES = (
    Query("events", "a visit"),
    Query("events", "an identity"),
    Query("visits", "an identity"),
    Query("pages", "a visit"),
)
LONGEST: Final = (
    (Query("visit", "a visit"), Query("visit", "the longest visit")),
    (Query("events", "a visit"), Query("events", "the longest visit")),
    (Query("pages", "a visit"), Query("pages", "the longest visit")),
)
"""What is asked of a visit of 200 events and of the longest one."""


@dataclass
class Side:
    """A history with so many events, and what its answers took, in milliseconds."""

    past: Past
    stub: Any
    fill_s: float
    indexes_s: float
    took_ms: dict[Query, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, query: Query, chance: random.Random) -> None:
        """Ask for a visit, or the first items of somebody, and note the time. Raises RuntimeError for fewer."""
        of = self._of(query.parent, chance)
        if query.items == "visit":
            method, request = "GetVisit", pb.GetVisitRequest(**of)
        else:
            method = f"List{query.items.title()}"
            request = getattr(pb, f"{method}Request")(page_size=ITEMS, **of)
        started = time.perf_counter()
        response = getattr(self.stub, method)(request, timeout=ANSWER_SECONDS)
        self.took_ms[query].append((time.perf_counter() - started) * 1000)
        if query.items != "visit" and len(getattr(response, query.items)) != ITEMS:
            raise RuntimeError(f"not {ITEMS} {query.items}")

    def _of(self, parent: Parent, chance: random.Random) -> dict[str, str]:
        match parent:
            case "a visit":
                return {"visit_id": chance.choice(self.past.long_visits)}
            case "an identity":
                return {"identity_id": chance.choice(self.past.identities)}
            case "the longest visit":
                return {"visit_id": self.past.longest_visit}
            case _:
                assert_never(parent)

    def percentiles(self, query: Query) -> tuple[float, float]:
        """p50 and p99."""
        cuts = quantiles(self.took_ms[query], n=100, method="inclusive")
        return cuts[49], cuts[98]


@contextmanager
def filled(events: int, longest: int = 0) -> Iterator[Side]:
    """A suite of its own whose history has so many events, and serves."""
    past = Past(events, longest)
    with fresh_suite() as suite, grpc.insecure_channel(suite.targets["history"]) as channel:
        suite.stop("history")
        times = [time.monotonic()]
        asyncio.run(_fill(suite, past))
        times.append(time.monotonic())
        suite.start("history")
        _wait_until_serving(channel)
        times.append(time.monotonic())
        yield Side(past, HistoryServiceStub(channel), times[1] - times[0], times[2] - times[1])


async def _fill(suite: Suite, past: Past) -> None:
    store = Store.open(suite.mongo_url, "footfall", 2_000)
    await fill(store, past, Tombstones(store, kept_keys(suite.data_dir)["ERASURE_KEY"]))
    await store.close()


def _wait_until_serving(channel: grpc.Channel) -> None:
    """Wait until history has made its indexes."""
    request = health_pb2.HealthCheckRequest()
    for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=INDEXES_SECONDS, wait_for_ready=True):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


def measure(extent: Extent) -> str:
    """Ask both sides every query in turn; return the section of the report."""
    started = time.monotonic()
    with filled(extent.few) as few, filled(extent.many, extent.longest) as many:
        chance = random.Random(4)  # noqa: S311 - which parents are asked for is no secret
        for number in range(extent.samples):
            for query in QUERIES:
                for side in (few, many) if number % 2 else (many, few):
                    side.ask(query, chance)
            for pair in LONGEST:
                for query in pair if number % 2 else reversed(pair):
                    many.ask(query, chance)
    return text(extent, few, many, time.monotonic() - started)


def text(extent: Extent, few: Side, many: Side, seconds: float) -> str:
    """The measured section, in Markdown."""
    heads = [f"{percentile} with {extent.few:,}|with {extent.many:,}|**ratio**" for percentile in ("p50", "p99")]
    of_longest = [
        f"{percentile} of {2 * PAGES_A_LONG_VISIT}|of {extent.longest:,}|**ratio**" for percentile in ("p50", "p99")
    ]
    return "\n".join(
        [
            measured(seconds),
            f"Milliseconds until a gRPC client of history has {ITEMS} items; {extent.samples} answers a figure.",
            "Goal: ratios below 1.5.",
            "",
            *table("|".join(("", *heads)), [_row(query, few, many) for query in QUERIES]),
            "",
            f"The same, and a visit itself, of a visit of {2 * PAGES_A_LONG_VISIT} events and of one of "
            f"{extent.longest:,} beside {extent.many:,} others. Goal: ratios below 3.",
            "",
            *table("|".join(("", *of_longest)), [_row_of_longest(pair, many) for pair in LONGEST]),
            "",
            f"To store {extent.many + extent.longest:,} events without indexes took {many.fill_s:.0f} s.",
            f"History, started after that, made its indexes and served {many.indexes_s:.0f} s later.",
        ]
    )


def _row(query: Query, few: Side, many: Side) -> list[str]:
    return [f"{query.items} of {query.parent}", *_ratios(few.percentiles(query), many.percentiles(query))]


def _row_of_longest(pair: tuple[Query, Query], side: Side) -> list[str]:
    of_one, of_longest = pair
    name = "the visit" if of_one.items == "visit" else f"{of_one.items} of it"
    return [name, *_ratios(side.percentiles(of_one), side.percentiles(of_longest))]


def _ratios(ones: Sequence[float], others: Sequence[float]) -> list[str]:
    figures = []
    for one, other in zip(ones, others, strict=True):
        figures += [f"{one:.1f}", f"{other:.1f}", f"**{other / one:.2f}**"]
    return figures


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events; prints and leaves the page as it is")
    is_quick = parser.parse_args().quick
    section = measure(QUICK if is_quick else FULL)
    print(section)
    if not is_quick:
        write(section, "make bench-history")


if __name__ == "__main__":
    main()
