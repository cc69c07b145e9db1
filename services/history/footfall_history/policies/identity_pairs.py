"""Counts which identity each event named before and which it names now, in a temporary database on disk.

There may be as many identities as events, and identities that merge or split are known only at the end.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Self

from footfall_history.policies.comparison import Pair
from footfall_history.policies.temporary_database import temporary_database

_PARTS: Final = 10
"""Parts of one identity that are listed, those with the most events."""

_SCHEMA: Final = """
CREATE TABLE pairs (
    before TEXT NOT NULL, after TEXT NOT NULL, reason TEXT NOT NULL,
    events INTEGER NOT NULL, visits INTEGER NOT NULL, last_visit TEXT NOT NULL,
    PRIMARY KEY (before, after, reason)
) WITHOUT ROWID
"""
# A visit adds all its pairs before the next one does, so the last visit of a row says whether it is counted already.
_ADD: Final = """
INSERT INTO pairs VALUES (?, ?, ?, ?, 1, ?)
ON CONFLICT DO UPDATE SET
    events = events + excluded.events,
    visits = visits + (last_visit <> excluded.last_visit),
    last_visit = excluded.last_visit
"""
_PREPARE: Final = """
CREATE INDEX by_after ON pairs (after, before);
CREATE TABLE olds AS
    SELECT before AS identity, COUNT(DISTINCT NULLIF(after, '')) AS parts, MAX(after) AS part, SUM(events) AS events
    FROM pairs WHERE before <> '' GROUP BY before;
CREATE TABLE news AS
    SELECT after AS identity, COUNT(DISTINCT NULLIF(before, '')) AS parts, MAX(before) AS part, SUM(events) AS events
    FROM pairs WHERE after <> '' GROUP BY after;
CREATE UNIQUE INDEX old_ids ON olds (identity);
CREATE UNIQUE INDEX new_ids ON news (identity);
"""
_KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "merged": ("news", "parts > 1"),
    "split": ("olds", "parts > 1"),
    "renamed": (
        "olds",
        "parts = 1 AND NOT EXISTS (SELECT 1 FROM news AS one WHERE one.identity = olds.identity) "
        "AND NOT EXISTS (SELECT 1 FROM olds AS one WHERE one.identity = olds.part) "
        "AND (SELECT one.parts FROM news AS one WHERE one.identity = olds.part) = 1",
    ),
    "vanished": ("olds", "parts = 0"),
    "new": ("news", "parts = 0"),
}
"""By kind of change, the table with the identities and the condition on them."""


class Part(NamedTuple):
    """The events of an identity that named, or name now, another one (empty: none), and why."""

    identity: str
    reason: str
    events: int
    visits: int


class ChangedIdentity(NamedTuple):
    """An identity, how many others it consists of or is divided into, and those with the most events."""

    identity: str
    events: int
    others: int
    parts: list[Part]


class IdentityPairs:
    """The pairs of all visits. Call `prepare` after the last `add` and before the queries."""

    def __init__(self) -> None:
        self._database = temporary_database(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, visit_id: str, pairs: Mapping[Pair, int]) -> None:
        """Add the numbers of events of a visit by pair. All those of one visit come before those of the next."""
        rows = [(*pair, count, visit_id) for pair, count in pairs.items()]
        self._database.executemany(_ADD, rows)

    def prepare(self) -> None:
        """Prepare the queries."""
        self._database.executescript(_PREPARE)

    def counts(self) -> tuple[int, int]:
        """The number of identities before and now."""
        return self._count("olds", "TRUE"), self._count("news", "TRUE")

    def changed(self, kind: str, limit: int) -> tuple[int, list[ChangedIdentity]]:
        """The number of identities of one of CHANGES, and those of them with the most events."""
        table, condition = _KINDS[kind]
        query = f"SELECT identity, events, parts FROM {table} WHERE {condition} "  # noqa: S608 - constants
        rows = self._database.execute(f"{query} ORDER BY events DESC, identity LIMIT ?", (limit,)).fetchall()
        found = [
            ChangedIdentity(identity, events, others, [*self._parts(table, identity)])
            for identity, events, others in rows
        ]
        return self._count(table, condition), found

    def _count(self, table: str, condition: str) -> int:
        query = f"SELECT COUNT(*) FROM {table} WHERE {condition}"  # noqa: S608 - constants
        [count] = self._database.execute(query).fetchone()
        return int(count)

    def _parts(self, table: str, identity: str) -> Iterable[Part]:
        own, other = ("before", "after") if table == "olds" else ("after", "before")
        query = f"SELECT {other}, reason, events, visits FROM pairs WHERE {own} = ? "  # noqa: S608 - constants
        rows: Iterator[tuple[str, str, int, int]] = self._database.execute(
            f"{query} ORDER BY events DESC, {other}, reason LIMIT {_PARTS}", (identity,)
        )
        return (Part(*row) for row in rows)


CHANGES: Final = tuple(_KINDS)
"""Kinds of changes of identities.

- `merged`: under the policy it consists of several identities.
- `split`: under the policy it is divided into several.
- `renamed`: all of it has another name.
- `vanished`: none of its events names an identity any more.
- `new`: its events named none before.
"""
