"""Health for operators: the parts of the suite, what was stored and refused, dead letters, what a person must do."""

import asyncio
import time
from typing import Annotated, Any, Final

import msgspec
from footfall.history.v1 import history_service_pb2 as history
from footfall_eventlog.partitions import TRANSIENT_ERRORS
from footfall_eventlog.process_records import ProcessRecords, Run
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.api_v1 import health_findings as findings
from footfall_gateway.auth import KeyScope
from footfall_gateway.backends import Backends
from footfall_gateway.fields import NextPageToken, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response

_FRESH_S: Final = 2.0
_SERVICES: Final = ("collector", "identity", "history")
_EXAMPLE_ID: Final = "7c9f1e0a-3b52-4d0e-9a41-0f6d5c2b8e11/1d7a55c0-98a4-4f4b-8a64-5f1f0a6f2b77"


class DeadLettersQuery(msgspec.Struct):
    """One page of dead letters."""

    page_size: Annotated[int, Meta(description="Maximum number of dead letters.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, Meta(description="`nextPageToken` of the previous response.")] = ""


class DeadLetterSummary(msgspec.Struct, rename="camel"):
    """An event or interaction that could not be stored, without what a visitor has sent in it."""

    dead_letter_id: Annotated[str, Meta(description="Its id: `visitID/eventID` of an event with readable ids.")]
    create_time: Annotated[Time, Meta(description="When it became a dead letter (ms).")]
    reason: Annotated[str, Meta(description="Why it could not be stored, in English.")]
    site: Annotated[str | None, Meta(description="The website of the event; null: not known.")]
    event_name: Annotated[str | None, Meta(description="The name of the event; null: not known, or an interaction.")]
    problem: Annotated[str | None, Meta(description="Why it cannot be replayed as it is; null: it can be.")]
    event: Annotated[
        dict[str, Any] | None,
        Meta(description="The event's fields that contain nothing about a person, by their names in gRPC; null: none."),
    ]


class DeadLetters(msgspec.Struct, rename="camel"):
    """A page of dead letters."""

    dead_letters: Annotated[list[DeadLetterSummary], Meta(description="Oldest first within a partition.")]
    next_page_token: NextPageToken | None


class Replay(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Which dead letters to replay: either `deadLetterIds` or `all`."""

    dead_letter_ids: Annotated[list[str], Meta(description="These.", max_length=1_000)] = []
    all: Annotated[bool, Meta(description="The first 1,000. Repeat until `replayedIds` is empty.")] = False


class Repair(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """How to change the event of a dead letter. At least one field must be set or removed."""

    dead_letter_id: Annotated[str, Meta(description="Which dead letter.", max_length=1_000)]
    set: Annotated[
        dict[str, Any],
        Meta(description="Values by the names of fields in gRPC, with `data` for the event's data.", max_length=50),
    ] = {}
    drop: Annotated[list[str], Meta(description="Names of fields to remove.", max_length=50)] = []


class Replayed(msgspec.Struct, rename="camel"):
    """What became of the dead letters."""

    replayed_ids: Annotated[list[str], Meta(description="Those that are in the event log again.")]
    refused: Annotated[list[DeadLetterSummary], Meta(description="Those that stay as they are, with `problem`.")]


class HealthApi:
    """How the suite is. It concerns all sites, so keys of some sites see none of it."""

    def __init__(self, backends: Backends, redis_url: str) -> None:
        self._backends = backends
        self._records = ProcessRecords(redis_url)
        self._asking = asyncio.Lock()
        self._last: tuple[float, findings.SystemHealth] | None = None

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation(
                "getSystemHealth", "GET", "/health", self.health, NoQuery, findings.SystemHealth, never={501, 504}
            ),
            Operation("listDeadLetters", "GET", "/dead-letters", self.dead_letters, DeadLettersQuery, DeadLetters),
            Operation(
                "repairDeadLetter",
                "POST",
                "/dead-letters:repair",
                self.repair,
                NoQuery,
                DeadLetterSummary,
                Repair,
                KeyScope.INGEST,
                errors={404: "There is no such dead letter: it has been replayed or discarded, or has expired."},
                example={"deadLetterId": _EXAMPLE_ID, "set": {"event_name": "AddToCart"}, "drop": ["category"]},
            ),
            Operation(
                "replayDeadLetters",
                "POST",
                "/dead-letters:replay",
                self.replay,
                NoQuery,
                Replayed,
                Replay,
                KeyScope.INGEST,
                example={"deadLetterIds": [_EXAMPLE_ID]},
            ),
        ]

    async def health(self, call: Call[NoQuery, None]) -> Response:
        """What works, what does not and what that means for beacons and queries; what was counted in the last day.

        Answers also when a part does not: that part is named in `parts`, and what only it knows is null. Counts are
        sums over all processes and over restarts; a process that is killed loses the counts of its last seconds.
        `since` says from when on there are counts. `problems` has only what a person must do, with commands.
        """
        call.principal.require_all_sites()
        async with self._asking:
            if self._last is None or time.monotonic() >= self._last[0]:
                runs, reasons = await asyncio.gather(self._runs(), self._backends.why_not_serving(_SERVICES))
                self._last = time.monotonic() + _FRESH_S, findings.system_health(runs, reasons, _now_ms())
            return json_response(self._last[1])

    async def dead_letters(self, call: Call[DeadLettersQuery, None]) -> Response:
        """Events and interactions that could not be stored, with the reason.

        The command `footfall-history dead-letters` shows all that is in them, and discards.
        """
        request = history.ListDeadLettersRequest(**msgspec.structs.asdict(call.query))
        answer = await self._backends.ask(self._backends.history.ListDeadLetters, request, call.principal)
        return json_response(DeadLetters([*map(_dead_letter, answer.dead_letters)], answer.next_page_token or None))

    async def replay(self, call: Call[NoQuery, Replay]) -> Response:
        """Append dead letters to the event log again, for history and identity to read.

        What still cannot be stored becomes a dead letter again.
        """
        request = history.ReplayDeadLettersRequest(dead_letter_ids=call.body.dead_letter_ids, all=call.body.all)
        answer = await self._backends.ask(self._backends.history.ReplayDeadLetters, request, call.principal)
        return json_response(Replayed([*answer.replayed_ids], [*map(_dead_letter, answer.refused)]))

    async def repair(self, call: Call[NoQuery, Repair]) -> Response:
        """Change fields of the event of a dead letter, which then waits to be replayed.

        400 also: the event would still be invalid; it was valid, so that its ids, time, transition and identity can no
        longer be changed; or the dead letter holds no event.
        """
        body = call.body
        values = {name: msgspec.json.encode(value).decode() for name, value in body.set.items()}
        request = history.RepairDeadLetterRequest(dead_letter_id=body.dead_letter_id, set=values, drop=body.drop)
        answer = await self._backends.ask(self._backends.history.RepairDeadLetter, request, call.principal)
        return json_response(_dead_letter(answer.dead_letter))

    async def close(self) -> None:
        """Close the connection to Redis."""
        await self._records.close()

    async def _runs(self) -> list[Run] | None:
        try:
            return await self._records.runs()
        except (*TRANSIENT_ERRORS, TimeoutError):
            return None


def _dead_letter(found: history.DeadLetterSummary) -> DeadLetterSummary:
    return DeadLetterSummary(
        found.dead_letter_id,
        milliseconds(found.create_time),
        found.reason,
        found.site or None,
        found.event_name or None,
        found.problem or None,
        msgspec.json.decode(found.event_json) if found.event_json else None,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
