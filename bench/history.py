"""Measures what the commonest queries take over little and over much.

`make bench-history` measures and writes docs/dev/performance.md; with `--quick` or `--events` it only prints.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from typing import Any, Final, Literal, NamedTuple, assert_never

import grpc
import httpx
from footfall.history.v1 import history_service_pb2 as pb
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from prometheus_client.parser import text_string_to_metric_families

from bench.page import measured, table, write
from bench.past import PAGES_A_LONG_VISIT, Past, fill
from bench.suite import fresh_suite
from deploy.embedded import kept_keys
from tests.tools.suite import Suite

ITEMS = 100
ANSWER_SECONDS = 10.0
STUCK_SECONDS = 1_800.0
"""So long without progress is a failure on any machine."""
PRINT_EVERY_SECONDS = 10.0


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
    """A list of what belongs to a parent, the oldest or the newest first, or a visit itself."""

    items: Literal["events", "visits", "pages", "visit"]
    parent: Parent
    order_by: Literal["", "event_time desc"] = ""


QUERIES = (
    Query("events", "a visit"),
    Query("events", "an identity"),
    Query("visits", "an identity"),
    Query("pages", "a visit"),
    Query("pages", "an identity", "event_time desc"),
)
LONGEST: Final = (
    (Query("visit", "a visit"), Query("visit", "the longest visit")),
    (Query("events", "a visit"), Query("events", "the longest visit")),
    (Query("pages", "a visit"), Query("pages", "the longest visit")),
    (Query("pages", "a visit", "event_time desc"), Query("pages", "the longest visit", "event_time desc")),
)
"""What is asked of a visit of 200 events and of the longest one."""


@dataclass
class Side:
    """A history with so many events, and what its answers took, in milliseconds."""

    past: Past
    suite: Suite
    stub: Any
    fill_s: float
    took_ms: dict[Query, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, query: Query, chance: random.Random) -> None:
        """Ask for a visit, or the first items of somebody, and note the time. Raises RuntimeError for fewer."""
        of = self._of(query.parent, chance)
        if query.items == "visit":
            method, request = "GetVisit", pb.GetVisitRequest(**of)
        else:
            method = f"List{query.items.title()}"
            request = getattr(pb, f"{method}Request")(page_size=ITEMS, order_by=query.order_by, **of)
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
        _wait_for_indexes(suite)
        suite.stop("history")
        started = time.monotonic()
        asyncio.run(_fill(suite, past))
        fill_s = time.monotonic() - started
        suite.start("history")
        _wait_for_indexes(suite)
        grpc.channel_ready_future(channel).result(STUCK_SECONDS)
        yield Side(past, suite, HistoryServiceStub(channel), fill_s)


class Progress:
    """Prints how far work has come, now and then."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._state: object = None
        self._changed_at = self._started = time.monotonic()
        self._print_at = self._started + PRINT_EVERY_SECONDS

    def report(self, state: object) -> None:
        """Note how far the work has come. Raises RuntimeError when that has not changed for STUCK_SECONDS."""
        now = time.monotonic()
        if state != self._state:
            self._state, self._changed_at = state, now
        if now - self._changed_at > STUCK_SECONDS:
            raise RuntimeError(f"{self._work}: no progress for {STUCK_SECONDS:.0f} s: {state}")
        if now >= self._print_at:
            self._print_at = now + PRINT_EVERY_SECONDS
            sys.stderr.write(f"{now - self._started:6.0f} s  {self._work}: {state}\n")


async def _fill(suite: Suite, past: Past) -> None:
    store = Store.open(suite.mongo_url, "footfall", 60_000)  # a busy server is late with heartbeats
    progress = Progress(f"events stored of {past.events + past.longest:,}")
    tombstones = Tombstones(store, kept_keys(suite.data_dir)["ERASURE_KEY"])
    await fill(store, past, tombstones, lambda count: progress.report(f"{count:,}"))
    await store.close()


def _wait_for_indexes(suite: Suite) -> None:
    """Wait until history has made all its indexes. SecantusDB cannot make them of a million events in its memory."""
    progress = Progress("indexes")
    while missing := _missing_indexes(suite):
        progress.report(f"{missing} are missing")
        time.sleep(0.2)


def _missing_indexes(suite: Suite) -> int:
    """How many indexes history has yet to make; 1 if it does not say so."""
    try:
        text = httpx.get(suite.metrics_urls()[-1], timeout=ANSWER_SECONDS).text
    except httpx.HTTPError:
        return 1
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    by_state = {each.labels["state"]: int(each.value) for each in samples if each.name == "footfall_store_indexes"}
    return by_state.get("missing", 1)


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
        trial_s = _try_policy(many)
    return text(extent, few, many, trial_s, time.monotonic() - started)


def _try_policy(side: Side) -> float:
    """Seconds that `footfall-policy simulate` takes over all visits."""
    environment = {**os.environ, **side.suite.environment, **kept_keys(side.suite.data_dir)}
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.toml"
        policy.write_text(f'version = "1"\nplaceholders = ["{side.past.identities[0]}"]\n', encoding="utf-8")
        command = [str(Path(sys.executable).with_name("footfall-policy")), "simulate", "--policy", str(policy)]
        started = time.monotonic()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.monotonic() - started


def text(extent: Extent, few: Side, many: Side, trial_s: float, seconds: float) -> str:
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
            f"To store {extent.many + extent.longest:,} events took {many.fill_s:.0f} s. To try an identity policy on",
            f"all of it (`footfall-policy simulate`) took {trial_s:.0f} s, which is "
            f"{(extent.many + extent.longest) / trial_s:,.0f} events a second.",
        ]
    )


def _row(query: Query, few: Side, many: Side) -> list[str]:
    return [f"{_items(query)} of {query.parent}", *_ratios(few.percentiles(query), many.percentiles(query))]


def _row_of_longest(pair: tuple[Query, Query], side: Side) -> list[str]:
    of_one, of_longest = pair
    name = "the visit" if of_one.items == "visit" else f"{_items(of_one)} of it"
    return [name, *_ratios(side.percentiles(of_one), side.percentiles(of_longest))]


def _items(query: Query) -> str:
    return f"newest {query.items}" if query.order_by else query.items


def _ratios(ones: Sequence[float], others: Sequence[float]) -> list[str]:
    figures = []
    for one, other in zip(ones, others, strict=True):
        figures += [f"{one:.1f}", f"{other:.1f}", f"**{other / one:.2f}**"]
    return figures


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few events; prints and leaves the page as it is")
    parser.add_argument(
        "--events", type=int, metavar="COUNT", help="so many events; prints and leaves the page as it is"
    )
    options = parser.parse_args()
    extent = QUICK if options.quick else FULL
    if options.events:
        extent = replace(QUICK, many=options.events, longest=options.events // 10)
    section = measure(extent)
    print(section)
    if extent is FULL:
        write(section, "make bench-history")


if __name__ == "__main__":
    main()
