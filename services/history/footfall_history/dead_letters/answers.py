"""Answers about dead letters over gRPC: which there are, and what became of those that are replayed."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from footfall.history.v1 import history_service_pb2 as pb
from footfall_servicekit import paging
from footfall_servicekit.errors import RequestError

from footfall_history.dead_letters import repair
from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue, DeadLettersFullError

_MAX_IDS: Final = 1_000
_RETRY_MS: Final = 60_000


async def list_dead_letters(
    queue: DeadLetterQueue, request: pb.ListDeadLettersRequest, max_age_ms: int
) -> pb.ListDeadLettersResponse:
    """A page of dead letters. Raises RequestError and TRANSIENT_LOG_ERRORS."""
    fingerprint, size = paging.fingerprint(request), paging.page_size(request.page_size)
    after = paging.decode(request.page_token, fingerprint) or ""
    found: list[DeadLetter] = []
    async for letter in queue.everything():
        if _position(letter) > after:
            found.append(letter)
        if len(found) > size:
            break
    token = paging.encode(_position(found[size - 1]), fingerprint) if len(found) > size else ""
    summaries = [_summary(letter, max_age_ms) for letter in found[:size]]
    return pb.ListDeadLettersResponse(dead_letters=summaries, next_page_token=token)


async def replay_dead_letters(
    queue: DeadLetterQueue, request: pb.ReplayDeadLettersRequest, max_age_ms: int
) -> pb.ReplayDeadLettersResponse:
    """Replay dead letters. Raises RequestError and TRANSIENT_LOG_ERRORS."""
    ids = [*request.dead_letter_ids]
    if bool(ids) == request.all:
        raise RequestError.invalid("dead_letter_ids", "either these or `all` must be given")
    if len(ids) > _MAX_IDS:
        raise RequestError.invalid("dead_letter_ids", f"must have at most {_MAX_IDS:,} items")
    response = pb.ReplayDeadLettersResponse()
    async for letter in _selected(queue, ids):
        if repair.why_not_replayed(letter, max_age_ms):
            response.refused.append(_summary(letter, max_age_ms))
        elif await queue.replay(letter):
            response.replayed_ids.append(letter.id)
    return response


async def repair_dead_letter(
    queue: DeadLetterQueue, request: pb.RepairDeadLetterRequest, max_age_ms: int
) -> pb.RepairDeadLetterResponse:
    """Change the event of a dead letter. Raises RequestError and TRANSIENT_LOG_ERRORS."""
    if not request.set and not request.drop:
        raise RequestError.invalid("set", "at least one field must be set or removed")
    letter = await queue.find(request.dead_letter_id)
    if letter:
        try:
            new = repair.repaired_by(letter, request.set, request.drop)
            new_id = await queue.replace(letter, new, repair.reason_after(letter))
        except repair.RepairError as error:
            raise RequestError.invalid("set", str(error)) from None
        except DeadLettersFullError:
            raise RequestError.exhausted("there are too many dead letters; replay or discard some", _RETRY_MS) from None
        letter = await queue.find(new_id)
    if letter is None:  # or it has been replayed meanwhile
        raise RequestError.not_found("dead letter", request.dead_letter_id)
    return pb.RepairDeadLetterResponse(dead_letter=_summary(letter, max_age_ms))


async def _selected(queue: DeadLetterQueue, ids: Sequence[str]) -> AsyncIterator[DeadLetter]:
    if ids:
        for letter_id in ids:
            if letter := await queue.find(letter_id):
                yield letter
        return
    count = 0
    async for letter in queue.everything():
        yield letter
        count += 1
        if count == _MAX_IDS:
            return


def _summary(letter: DeadLetter, max_age_ms: int) -> pb.DeadLetterSummary:
    batch = letter.batch
    summary = pb.DeadLetterSummary(
        dead_letter_id=letter.id,
        reason=letter.reason,
        site=batch.events[0].site if batch else "",
        event_name=batch.events[0].event_name if batch else "",
        problem=repair.why_not_replayed(letter, max_age_ms),
        event_json=repair.to_json(batch.events[0], is_whole=False).decode() if batch else "",
    )
    summary.create_time.FromMilliseconds(letter.created_ms)
    return summary


def _position(letter: DeadLetter) -> str:
    return f"{letter.partition:04d}/{letter.created_ms:015d}/{letter.id}"
