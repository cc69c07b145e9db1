"""What could link identities to contacts, before and under a policy: gathered from events, in a temporary database.

The keys are those that identity would have of the same events, by the same functions. There may be as many identities
as events, so they are kept on disk (`temporary_database`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final, NamedTuple, Self

from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.attributes import Said, said_by
from footfall_eventlog.devices import MAX_DAYS
from footfall_eventlog.identity_policy import LinkPolicy
from footfall_eventlog.match_keys import MatchKey, MatchKeys, unused_up_to
from footfall_timeline import Transition

from footfall_history.policies.decisions import Decision, JudgedEvent
from footfall_history.policies.temporary_database import temporary_database

_SCHEMA: Final = """
CREATE TABLE named (identity TEXT NOT NULL, PRIMARY KEY (identity)) WITHOUT ROWID;
CREATE TABLE keys (
    identity TEXT NOT NULL, side INTEGER NOT NULL, attribute TEXT NOT NULL,
    assurance INTEGER NOT NULL, at TEXT NOT NULL, visit TEXT NOT NULL, key TEXT NOT NULL,
    PRIMARY KEY (identity, side, attribute)
) WITHOUT ROWID;
CREATE TABLE devices (
    identity TEXT NOT NULL, side INTEGER NOT NULL, day INTEGER NOT NULL, device TEXT NOT NULL,
    PRIMARY KEY (identity, side, day, device)
) WITHOUT ROWID;
CREATE TABLE givers (
    side INTEGER NOT NULL, key TEXT NOT NULL, total INTEGER NOT NULL, proven INTEGER NOT NULL, PRIMARY KEY (side, key)
) WITHOUT ROWID;
"""
_ADD_NAME: Final = "INSERT OR IGNORE INTO named VALUES (?)"
_ADD_DEVICE: Final = "INSERT OR IGNORE INTO devices VALUES (?, ?, ?, ?)"
# As MatchKey compares: the greater one counts.
_ADD_KEY: Final = """
INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET assurance = excluded.assurance, at = excluded.at, visit = excluded.visit, key = excluded.key
    WHERE (excluded.assurance, excluded.at, excluded.visit, excluded.key) > (assurance, at, visit, key)
"""
_ADD_GIVER: Final = """
INSERT INTO givers VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET total = total + 1, proven = proven + excluded.proven
"""
# As `most_devices` of `merged_days`, without reading all devices of an identity that is used on very many.
_MOST_DEVICES: Final = """
SELECT MAX(devices) FROM (
    SELECT COUNT(*) AS devices FROM devices WHERE identity = ? AND side = ? GROUP BY day ORDER BY day DESC LIMIT ?
)
"""
_PER_STEP: Final = 1_000


class PersonEvidence(NamedTuple):
    """What could link a person on one side. `generic`: of keys that too many give, up to which assurance."""

    match_keys: MatchKeys
    generic: Mapping[str, int]
    is_shared: bool


class LinkEvidence:
    """The evidence of all events. Call `count_givers` after the last `add` and before the queries."""

    def __init__(self, before: LinkPolicy, after: LinkPolicy, phone_region: str | None) -> None:
        """`before` and `after`: what links contacts by the rules in force, and under the policy."""
        self.policies = before, after
        self._region = phone_region
        self._has_same_names = before.names.by_attribute == after.names.by_attribute
        self._database = temporary_database(_SCHEMA)
        self._database.create_function("rank", 1, _rank, deterministic=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, events: Iterable[tuple[Mapping[str, Any], JudgedEvent]]) -> None:
        """Add stored events, each with what was decided about it and what the policy decides."""
        names: list[tuple[str]] = []
        keys: list[tuple[str, int, str, int, str, str, str]] = []
        devices: list[tuple[str, int, int, str]] = []
        for document, judged in events:
            known: tuple[Decision, Said] | None = None
            for side, decision in enumerate((judged.before, judged.after)):
                transition = judged.transition(decision)
                if not (transition and transition.identity):
                    continue
                if not (known and self._has_same_names and known[0] == decision):
                    known = decision, self._said(document, transition, decision.ignored_keys, side)
                identity, said = transition.identity, known[1]
                names.append((identity,))
                for attribute, key in said.match_keys.by_attribute().items():
                    keys.append((identity, side, attribute, key.assurance, key.at, key.visit_id, key.key))
                if said.device:
                    devices.append((identity, side, said.device.day, said.device.devices[0]))
        for statement, rows in ((_ADD_NAME, names), (_ADD_KEY, keys), (_ADD_DEVICE, devices)):
            self._database.executemany(statement, rows)

    def _said(
        self, document: Mapping[str, Any], transition: Transition, ignored_keys: Iterable[str], side: int
    ) -> Said:
        event = Event(
            visit_id=document["visit_id"],
            global_visit_id=document.get("global_visit_id", ""),
            data_json=document.get("data_json", b""),
            proven_json=document.get("proven_json", b""),
            ignored_keys=ignored_keys,
        )
        return said_by(event, transition, self.policies[side].names, self._region)

    def count_givers(self) -> None:
        """Count how many identities give each key, on either side."""
        rows: list[tuple[int, str, bool]] = []
        for (_, side), match_keys in self._all_keys():
            rows += [(side, key, key in match_keys.proven) for key in match_keys.compared]
            if len(rows) >= _PER_STEP:
                self._database.executemany(_ADD_GIVER, rows)
                rows = []
        self._database.executemany(_ADD_GIVER, rows)

    def _all_keys(self) -> Iterator[tuple[tuple[str, int], MatchKeys]]:
        """Yield the match keys by identity and side."""
        rows = self._database.execute("SELECT * FROM keys ORDER BY identity, side")
        for of, group in groupby(rows, lambda row: (row[0], row[1])):
            yield of, _of_rows(row[2:] for row in group)

    def count(self) -> int:
        """The number of identities that events name on either side."""
        [count] = self._database.execute("SELECT COUNT(*) FROM named").fetchone()
        return int(count)

    def identities(self, limit: int, size: int) -> Iterator[list[str]]:
        """Yield identities, `size` at a time: at most `limit`, spread evenly over all, and the same in every run."""
        rows = self._database.execute("SELECT identity FROM named ORDER BY rank(identity), identity LIMIT ?", (limit,))
        while found := rows.fetchmany(size):
            yield [identity for (identity,) in found]

    def of_person(self, names: Sequence[str], side: int) -> PersonEvidence:
        """The evidence on one side of a person, given by all names."""
        found = [self._of_name(name, side) for name in names]
        match_keys = reduce(MatchKeys.merged, (keys for keys, _ in found), MatchKeys())
        generic = {key: up_to for key in match_keys.compared if (up_to := self._generic_up_to(key, side))}
        most = self.policies[side].rules.max_devices_per_day
        return PersonEvidence(match_keys, generic, any(devices > most for _, devices in found))

    def _of_name(self, name: str, side: int) -> tuple[MatchKeys, int]:
        keys = self._database.execute(
            "SELECT attribute, assurance, at, visit, key FROM keys WHERE identity = ? AND side = ?", (name, side)
        )
        devices = self._database.execute(_MOST_DEVICES, (name, side, MAX_DAYS))
        return _of_rows(keys), devices.fetchone()[0] or 0

    def _generic_up_to(self, key: str, side: int) -> int:
        most = self.policies[side].rules.max_identities_per_value
        row = self._database.execute("SELECT total, proven FROM givers WHERE side = ? AND key = ?", (side, key))
        total, proven = row.fetchone() or (0, 0)
        return unused_up_to(total, proven, most).value


def _of_rows(rows: Iterable[tuple[str, int, str, str, str]]) -> MatchKeys:
    return MatchKeys(**{row[0]: MatchKey(*row[1:]) for row in rows})


def _rank(identity: str) -> int:
    return int.from_bytes(blake2b(identity.encode(), digest_size=7).digest())
