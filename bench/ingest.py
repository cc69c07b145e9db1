"""Turns a log that history has yet to read into its rate of ingest, and the bare server's with the same documents."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pymongo import MongoClient

from bench.load import Profile, run
from bench.meter import GROUPS, Meter
from tests.tools.suite import Suite

BATCH = 1_000
MOST_BARE = 20_000
FILL = Profile("fill", 10, 64, sign_in_share=0.05)


@dataclass(frozen=True)
class Ingest:
    """Documents a second: history's; a bare insert_many into a collection with its indexes; into one without.

    `cpu_us`: CPU a document of history, and of `mongo` meanwhile; `bare`: of mongo during the insert with indexes.
    """

    documents: int
    history: float
    bare: float
    bare_without_indexes: float
    cpu_us: dict[str, float]


def measure(suite: Suite, meter: Meter, database: str, fill_seconds: int) -> Ingest:
    """Let the log grow while history is held, then time how it catches up, and the bare server afterwards."""
    with MongoClient[dict[str, Any]](suite.mongo_url) as client:
        events = client[database]["events"]
        meter.drain(*GROUPS)
        with meter.holding("history"):
            run(suite.url, FILL, fill_seconds)
        before = events.estimated_document_count()
        cpu_before = meter.state().cpu_s
        seconds = meter.drain("history")
        cpu_after = meter.state().cpu_s
        count = events.estimated_document_count() - before
        documents = list(events.find().limit(min(count, MOST_BARE)))
        indexes = [
            (list(about["key"]), {k: v for k, v in about.items() if k == "partialFilterExpression"})
            for name, about in events.index_information().items()
            if name != "_id_"
        ]
        rates, bare_cpu_s = [], []
        for number, wanted in enumerate((indexes, [])):
            bare = client["bench"][f"bare{number}"]
            for keys, options in wanted:
                bare.create_index(keys, **options)
            before_s, started = meter.state().cpu_s["mongo"], time.monotonic()
            for part in _parts(documents):
                bare.insert_many(part, ordered=False)
            rates.append(len(documents) / (time.monotonic() - started))
            bare_cpu_s.append(meter.state().cpu_s["mongo"] - before_s)
    return Ingest(
        documents=count,
        history=count / seconds,
        bare=rates[0],
        bare_without_indexes=rates[1],
        cpu_us={
            **{name: (cpu_after[name] - cpu_before[name]) / max(count, 1) * 1e6 for name in ("history", "mongo")},
            "bare": bare_cpu_s[0] / max(len(documents), 1) * 1e6,
        },
    )


def _parts(documents: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(documents), BATCH):
        yield documents[start : start + BATCH]
