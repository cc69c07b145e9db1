"""Codes of 6 digits that visitors read to agents. A code finds one visit, for some minutes and for one caller.

A code is in the partition of its visit: the number of that partition is the code modulo the number of partitions. So
one script sees all of a visit's code, and a code is enough to find its partition.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog
from footfall_servicekit.errors import RequestError

from footfall_identity import metrics
from footfall_identity.live_visitors import is_visible
from footfall_identity.partitions import Partitions, translating_errors
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore, now_ms

CODE_DIGITS: Final = 6

_CODES: Final = 10**CODE_DIGITS
_MINUTE_MS: Final = 60_000
_ALL: Final = "all"
"""In place of the hash of a caller: all callers together."""
_CANDIDATES: Final = 8
"""Random codes for one try: one is free unless nearly all codes of the partition are in use."""

_log = structlog.get_logger()


class VisitCode(NamedTuple):
    """A code, and how long it still finds its visit."""

    code: str
    valid_ms: int


class VisitCodes:
    """Makes and uses codes. All methods raise RequestError (UNAVAILABLE) for transient errors of Redis.

    A code lives `life_ms`. At most about `max_codes` are in use: each makes it likelier that a guess finds a visit. A
    caller may give `max_wrong_per_minute` wrong codes, and all callers together `max_wrong_of_all`: a caller over gRPC
    may give any name.
    """

    def __init__(
        self,
        partitions: Partitions,
        visitors: VisitorStore,
        *,
        life_ms: int,
        max_codes: int,
        max_wrong_per_minute: int,
        max_wrong_of_all: int,
    ) -> None:
        self._partitions = partitions
        self._visitors = visitors
        self._life_ms = life_ms
        self._max_codes = max(1, max_codes // len(partitions.numbers))
        self._max_wrong = max_wrong_per_minute
        self._max_wrong_of_all = max_wrong_of_all
        self._create_script = partitions.script("create_visit_code.lua")
        self._use_script = partitions.script("use_visit_code.lua")

    async def create(self, visit_id: str) -> VisitCode:
        """Return the code of a visit, by its stored id.

        Raises RequestError (RESOURCE_EXHAUSTED) if too many codes are in use.
        """
        number = self._partitions.number_of(visit_id)
        keys = self._partitions.keys[number]
        candidates = [self._random_code(number) for _ in range(_CANDIDATES)]
        names = [keys.codes, keys.code + visit_id, *(keys.code + code for code in candidates)]
        arguments: list[str | int | bytes] = [
            now_ms(),
            self._life_ms,
            self._max_codes,
            keys.code,
            visit_id,
            *candidates,
        ]
        async with translating_errors():
            answer = await self._create_script(number, names, arguments)
        if not answer:
            metrics.VISIT_CODES.labels("refused").inc()
            raise RequestError.exhausted("too many codes of visits are in use; try again later", _MINUTE_MS)
        metrics.VISIT_CODES.labels("given").inc()
        code, valid_ms = answer
        return VisitCode(code.decode(), valid_ms)

    def _random_code(self, number: int) -> str:
        """Return a random code of a partition."""
        count = len(self._partitions.numbers)
        return f"{secrets.randbelow(_CODES // count) * count + number:0{CODE_DIGITS}}"

    async def use(self, code: str, actor: str, sites: Sequence[str]) -> VisitRecord | None:
        """Return the visit of a code, if it was seen on these sites (empty: on any) and no other caller uses the code.

        Raises RequestError (RESOURCE_EXHAUSTED) if `actor`, or all callers together, have given too many wrong codes in
        this minute. Then not even the right code finds a visit.
        """
        user = hashlib.sha256(actor.encode()).hexdigest()
        minute, passed_ms = divmod(now_ms(), _MINUTE_MS)
        tries = [f"{user}:{minute}", f"{_ALL}:{minute}"]
        # Counted before the code is looked up, so that codes given at the same time do not pass the limit together. A
        # caller beyond its own limit does not count for all, so a single caller cannot use up the limit of all.
        for of_one, limit in zip(tries, (self._max_wrong, self._max_wrong_of_all), strict=True):
            count = await self._count([of_one], 1)
            if count > limit:
                metrics.VISIT_CODE_TRIES.labels("refused").inc()
                if count == limit + 1:  # one line a minute: a caller must not be able to fill the log
                    _log.warning("too many wrong codes of visits", actor=actor, of_all=of_one is tries[1])
                message = "too many wrong codes were given; try again in a minute"
                raise RequestError.exhausted(message, _MINUTE_MS - passed_ms, "TOO_MANY_WRONG_CODES")
        record = await self._find(code, user, sites)
        if record is not None:
            await self._count(tries, -1)
        outcome = "nothing" if record is None else "found"
        metrics.VISIT_CODE_TRIES.labels(outcome).inc()
        # For auditors: without the code and the visit, which lead to the person.
        _log.info("code of a visit", actor=actor, outcome=outcome)
        return record

    async def _find(self, code: str, user: str, sites: Sequence[str]) -> VisitRecord | None:
        number = int(code) % len(self._partitions.numbers)
        key = self._partitions.keys[number].code + code
        [found] = await self._partitions.execute([(number, "HGET", key, "visit")])
        if found is None:
            return None
        visit_id = found.decode()
        record = (await self._visitors.get([visit_id])).get(visit_id)
        if record is None or not is_visible(record, sites):
            return None
        async with translating_errors():
            used_by = await self._use_script(number, [key], [visit_id, user])
        return record if used_by == user.encode() else None

    async def _count(self, tries: Sequence[str], amount: int) -> int:
        """Add to numbers of tries; return the first of them.

        Each minute has a number of its own: what is subtracted late must not count for the next one.
        """
        numbers = [self._partitions.number_of(name) for name in tries]
        keys = [
            (number, self._partitions.keys[number].code_tries + name)
            for number, name in zip(numbers, tries, strict=True)
        ]
        # The key gets its expiry first, so that none can stay without.
        begin = [(number, "SET", key, 0, "NX", "PX", 2 * _MINUTE_MS) for number, key in keys]
        answers = await self._partitions.execute([*begin, *((number, "INCRBY", key, amount) for number, key in keys)])
        return int(answers[len(begin)])
