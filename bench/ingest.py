"""Turns a log that history has yet to read into its rate of ingest, and the bare server's with the same documents."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from footfall_history.storage.indexes import INDEXES, Index
from pymongo import MongoClient
from pymongo.collection import Collection

from bench.load import Profile, run
from bench.meter import GROUPS, Meter
from tests.tools.suite import Suite
from tests.tools.visits import now_ms

BATCH: Final = 1_000
SAMPLE: Final = 4_000
"""Documents with which the cost of an index is measured."""
FILL: Final = Profile("fill", 10, 64, sign_in_share=0.05)

Documents = list[dict[str, Any]]


@dataclass(frozen=True)
class Ingest:
    """Documents a second: history's; a bare insert_many into a collection with its indexes; into one without.

    `cpu_us`: CPU a document of history, and of `mongo` meanwhile; `bare`: of mongo during the insert with indexes.
    `index_us`: CPU of mongo that an insert of an event or a visit takes less without one of the indexes, by its name.
    """

    documents: int
    history: float
    bare: float
    bare_without_indexes: float
    cpu_us: dict[str, float]
    index_us: dict[str, float]


class _Bare:
    """Inserts documents into collections of its own, one for each measurement."""

    def __init__(self, client: "MongoClient[dict[str, Any]]", meter: Meter) -> None:
        self._collections: Iterator[Collection[dict[str, Any]]] = (client["bench"][f"bare{n}"] for n in count())
        self._meter = meter

    def insert(self, documents: Sequence[dict[str, Any]], indexes: Sequence[Index]) -> tuple[float, float]:
        """Insert documents into a new collection with these indexes. Returns the seconds, and those of CPU of mongo."""
        collection = next(self._collections)
        for index in indexes:
            collection.create_index(index.keys, **index.options)
        cpu_s, started = self._meter.state().cpu_s["mongo"], time.monotonic()
        for start in range(0, len(documents), BATCH):
            collection.insert_many(documents[start : start + BATCH], ordered=False)
        return time.monotonic() - started, self._meter.state().cpu_s["mongo"] - cpu_s

    def index_us(self, documents: Documents, indexes: Sequence[Index]) -> dict[str, float]:
        """Return the CPU of mongo that an insert of a document takes less without each of these indexes."""
        copies = [
            {**document, "_id": f"{document['_id']}{number}"}
            for number in range(SAMPLE // len(documents) + 1)
            for document in documents
        ][:SAMPLE]
        with_all_s = self.insert(copies, indexes)[1]
        without_s = {
            index.name: self.insert(copies, [other for other in indexes if other is not index])[1] for index in indexes
        }
        return {name: (with_all_s - cpu_s) / SAMPLE * 1e6 for name, cpu_s in without_s.items()}


def measure(suite: Suite, meter: Meter, database: str, fill_seconds: int) -> Ingest:
    """Let the log grow while history is held, then time how it catches up, and the bare server afterwards."""
    with MongoClient[dict[str, Any]](suite.mongo_url) as client:
        meter.drain(*GROUPS)
        began_ms = now_ms()
        with meter.holding("history"):
            run(suite.url, FILL, fill_seconds)
        cpu_before = meter.state().cpu_s
        seconds = meter.drain("history")
        cpu_after = meter.state().cpu_s
        events = list(client[database]["events"].find({"received_ms": {"$gte": began_ms}}))
        visits = list(client[database]["visits"].find({"touched_ms": {"$gte": began_ms}}))
        bare, of_events, of_visits = _Bare(client, meter), _indexes_of("events"), _indexes_of("visits")
        bare_s, bare_cpu_s = bare.insert(events, of_events)
        without_indexes_s, _ = bare.insert(events, [])
        index_us = bare.index_us(events, of_events) | bare.index_us(visits, of_visits)
    return Ingest(
        documents=len(events),
        history=len(events) / seconds,
        bare=len(events) / bare_s,
        bare_without_indexes=len(events) / without_indexes_s,
        cpu_us={
            **{name: (cpu_after[name] - cpu_before[name]) / len(events) * 1e6 for name in ("history", "mongo")},
            "bare": bare_cpu_s / len(events) * 1e6,
        },
        index_us=index_us,
    )


def _indexes_of(collection: str) -> list[Index]:
    return [index for index in INDEXES.values() if index.collection == collection]
