"""Trials of policies for callers: each runs in a process of its own (`worker`), which ends with the call.

So a trial of minutes neither delays other calls nor the event log, and needs no memory of this process.
"""

import math
import sys
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final

import msgspec
from footfall.history.v1 import history_service_pb2 as pb
from footfall_eventlog.events import USER_ID_KEYS
from footfall_eventlog.identity_policy import IdentityPolicy, IdentityPolicyError
from footfall_servicekit.errors import RequestError

from footfall_history.policies.report import MAX_JUDGED, MAX_LISTED, MOST_JUDGED
from footfall_history.queries import time_ms

UNAVAILABLE_CODE: Final = 75
"""The exit code of a trial that a store did not answer."""

_MAX_KEYS: Final = 50
_PART_BYTES: Final = 256 * 1024
_RETRY_MS: Final = 30_000


class Order(msgspec.Struct):
    """What a process is to try. `rate`: visits a second at most; 0: no limit."""

    policy: str
    user_id_keys: list[str]
    from_ms: int | None
    to_ms: int
    sites: list[str]
    max_examples: int
    max_identities: int
    rate: float
    max_judged: int


class Progress(msgspec.Struct):
    """A line of the process. With `report_bytes`, the report follows."""

    visits: int
    events: int
    last_start_ms: int = 0
    report_bytes: int = 0


class PolicyTrials:
    """Runs one trial at a time."""

    def __init__(self) -> None:
        self._is_busy = False

    async def simulate(
        self, request: pb.SimulatePolicyRequest, sites: Sequence[str]
    ) -> AsyncGenerator[pb.SimulatePolicyResponse, None]:
        """Yield how far the trial is, then its report in parts. `sites`: all that the request is about (empty: any).

        Raises RequestError.
        """
        order = _order(request, sites)
        if self._is_busy:
            raise RequestError.exhausted("another policy is being tried; wait until that has ended", _RETRY_MS)
        self._is_busy = True
        try:
            worker = "footfall_history.policies.worker"
            process = await create_subprocess_exec(sys.executable, "-m", worker, stdin=PIPE, stdout=PIPE)
            try:
                async with aclosing(_answers(process, order)) as answers:
                    async for answer in answers:
                        yield answer
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            self._is_busy = False


async def _answers(process: Process, order: Order) -> AsyncGenerator[pb.SimulatePolicyResponse, None]:
    if not (process.stdin and process.stdout):
        raise RuntimeError("the process has no pipes")
    process.stdin.write(msgspec.json.encode(order))
    process.stdin.close()
    left = 0
    while line := await process.stdout.readline():
        progress = msgspec.json.decode(line, type=Progress)
        if left := progress.report_bytes:
            break
        yield _progress(progress)
    while left:
        part = await process.stdout.readexactly(min(left, _PART_BYTES))
        left -= len(part)
        yield pb.SimulatePolicyResponse(report_part=part)
    code = await process.wait()
    if code == UNAVAILABLE_CODE:
        message = "MongoDB does not answer, or a later version has written what is to be read; try again"
        raise RequestError.unavailable(message, _RETRY_MS, repeats=False)
    if code:
        raise RuntimeError(f"the trial of a policy ended with exit code {code}")


def _progress(progress: Progress) -> pb.SimulatePolicyResponse:
    message = pb.SimulationProgress(visit_count=progress.visits, event_count=progress.events)
    if progress.last_start_ms:
        message.last_start_time.FromMilliseconds(progress.last_start_ms)
    return pb.SimulatePolicyResponse(progress=message)


def _order(request: pb.SimulatePolicyRequest, sites: Sequence[str]) -> Order:
    keys = [*request.user_id_keys] or [*USER_ID_KEYS]
    if len(keys) > _MAX_KEYS or not all(keys):
        raise RequestError.invalid("user_id_keys", f"must be at most {_MAX_KEYS} keys, none of them empty")
    if not 0 <= request.visits_per_second < math.inf:
        raise RequestError.invalid("visits_per_second", "must be 0 or a greater number")
    try:
        IdentityPolicy.parse(request.policy, "policy", keys)
    except IdentityPolicyError as error:
        raise RequestError.invalid("policy", str(error)) from None
    from_ms, to_ms = time_ms(request, "start_time"), time_ms(request, "end_time")
    return Order(
        request.policy,
        keys,
        None if from_ms is None else max(0, from_ms),
        time.time_ns() // 1_000_000 if to_ms is None else max(0, to_ms),
        [*sites],
        _count(request, "max_examples", 5),
        _count(request, "max_identities", 100),
        request.visits_per_second,
        _count(request, "max_judged_identities", MAX_JUDGED, MOST_JUDGED),
    )


def _count(request: pb.SimulatePolicyRequest, field: str, default: int, most: int = MAX_LISTED) -> int:
    count: int = getattr(request, field)
    if count < 0:
        raise RequestError.invalid(field, "must not be negative")
    return min(count or default, most)
