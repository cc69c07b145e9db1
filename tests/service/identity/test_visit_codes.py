"""Codes of visits: who finds a visit by one, how often anybody may guess, and when a code ends."""

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from footfall_identity import metrics
from footfall_identity.partitions import Partitions
from footfall_identity.visit_codes import VisitCodes
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import RequestError

from tests.tools.identity import PARTITIONS, admitted, new_id, resolve
from tests.tools.visits import now_ms

LIFE_MS = 600_000


def visit_codes(partitions: Partitions, store: VisitorStore, **settings: int) -> VisitCodes:
    """Codes with the default settings, unless others are given."""
    defaults = {"life_ms": LIFE_MS, "max_codes": 10_000, "max_wrong_per_minute": 5, "max_wrong_of_all": 100}
    return VisitCodes(partitions, store, **(defaults | settings))


@pytest.fixture
def codes(partitions: Partitions, store: VisitorStore) -> VisitCodes:
    return visit_codes(partitions, store)


async def seen_visit(store: VisitorStore, site: str = "shop") -> str:
    """A visit that live state knows."""
    visit_id = new_id()
    await resolve(store, admitted("SignIn", visit_id, now_ms(), "dana", site=site))
    return visit_id


def tries(outcome: str) -> float:
    """The metric of tries with this outcome."""
    return next(iter(metrics.VISIT_CODE_TRIES.labels(outcome).collect())).samples[0].value


async def found(codes: VisitCodes, code: str, actor: str = "anna", sites: tuple[str, ...] = ()) -> str | None:
    """The visit that a caller finds."""
    record = await codes.use(code, actor, sites)
    return record.visit_id if record else None


async def test_a_code_finds_its_visit_for_the_caller_that_uses_it_first(codes: VisitCodes, store: VisitorStore) -> None:
    visits = [await seen_visit(store) for _ in range(20)]
    made = [await codes.create(visit) for visit in visits]
    assert len({code for code, _ in made}) == len(visits)
    assert {int(code) % PARTITIONS for code, _ in made} == set(range(PARTITIONS))
    for visit, (code, valid_ms) in zip(visits, made, strict=True):
        assert (len(code), valid_ms) == (6, LIFE_MS)
        assert await found(codes, code) == visit
    [visit, *_], [(code, _), *_] = visits, made
    assert await found(codes, code, "ben") is None
    assert await found(codes, code) == visit


class Clock:
    """The time of the codes, which stands still until a test moves it."""

    at_ms = now_ms() // 60_000 * 60_000

    def __call__(self) -> int:
        return self.at_ms


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("footfall_identity.visit_codes.now_ms", clock)
    return clock


async def guess(codes: VisitCodes, *guesses: tuple[str, str]) -> list[Any]:
    """Use codes, each as an actor; give answers and errors. Fifty at the same time: there are 100 connections."""
    answers: list[Any] = []
    for start in range(0, len(guesses), 50):
        some = (codes.use(code, actor, ()) for code, actor in guesses[start : start + 50])
        answers += await asyncio.gather(*some, return_exceptions=True)
    return answers


@pytest.mark.usefixtures("clock")
async def test_10000_wrong_codes_find_nothing_and_are_counted(codes: VisitCodes, store: VisitorStore) -> None:
    visit = await seen_visit(store)
    right, _ = await codes.create(visit)
    before = {outcome: tries(outcome) for outcome in ("found", "nothing", "refused")}
    wrong = [code for number in range(10_001) if (code := f"{number:06}") != right][:10_000]

    for start in range(0, len(wrong), 50):
        answers = await guess(codes, *((code, f"agent {start // 1_000}") for code in wrong[start : start + 50]))
        assert all(one is None or getattr(one, "reason", "") == "TOO_MANY_WRONG_CODES" for one in answers)
    counted = {outcome: tries(outcome) - count for outcome, count in before.items()}
    assert counted == {"found": 0, "nothing": 50, "refused": 9_950}
    with pytest.raises(RequestError):  # a caller that guesses is refused the right one too
        await codes.use(right, "agent 0", ())
    assert await found(codes, right) == visit


async def test_callers_with_invented_names_may_not_guess_more_than_all_together(
    codes: VisitCodes, store: VisitorStore, clock: Clock
) -> None:
    visit = await seen_visit(store)
    right, _ = await codes.create(visit)
    wrong = f"{int(right) ^ 1:06}"
    await guess(codes, *[(wrong, "of one")] * 200)
    assert await found(codes, right, "anna") == visit, "one caller cannot use up the limit of all"
    guesses = await guess(codes, *((wrong, str(number)) for number in range(200)))
    assert guesses.count(None) == 95
    with pytest.raises(RequestError) as refused:
        await codes.use(right, "anna", ())
    assert refused.value.reason == "TOO_MANY_WRONG_CODES"
    clock.at_ms += 60_000
    assert await found(codes, right, "anna") == visit


async def test_a_right_code_at_the_end_of_a_minute_gives_no_further_guess_in_the_next(
    codes: VisitCodes, store: VisitorStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit = await seen_visit(store)
    right, _ = await codes.create(visit)
    read = store.get

    async def read_late(visit_ids: Iterable[str]) -> dict[str, VisitRecord]:
        clock.at_ms += 60_000
        return await read(visit_ids)

    with monkeypatch.context() as late:
        late.setattr(store, "get", read_late)
        assert await found(codes, right) == visit
    for _ in range(5):
        assert await found(codes, f"{int(right) ^ 1:06}") is None
    with pytest.raises(RequestError):
        await codes.use(right, "anna", ())


async def test_right_codes_are_not_counted_as_wrong(codes: VisitCodes, store: VisitorStore) -> None:
    for _ in range(10):
        visit = await seen_visit(store)
        code, _ = await codes.create(visit)
        assert await found(codes, code) == visit


async def test_a_code_of_another_site_finds_nothing_and_is_not_used_by_that(
    codes: VisitCodes, store: VisitorStore
) -> None:
    visit = await seen_visit(store, "shop")
    code, _ = await codes.create(visit)
    assert await found(codes, code, "of the bank", ("bank",)) is None
    assert await found(codes, code, "of the shop", ("bank", "shop")) == visit


async def test_a_visit_has_one_code_until_it_is_used_or_half_over(partitions: Partitions, store: VisitorStore) -> None:
    codes, visit = visit_codes(partitions, store, life_ms=1_000), await seen_visit(store)
    first, _ = await codes.create(visit)
    again, valid_ms = await codes.create(visit)
    assert again == first
    assert valid_ms <= 1_000
    assert await found(codes, first) == visit
    after_use, _ = await codes.create(visit)
    assert after_use != first
    assert await found(codes, first) is None
    await asyncio.sleep(0.6)
    later, _ = await codes.create(visit)
    assert later != after_use
    assert await found(codes, after_use, "ben") is None
    await asyncio.sleep(1.1)
    assert await found(codes, later, "cleo") is None


async def test_codes_in_use_are_limited_and_leave_nothing_behind(partitions: Partitions, store: VisitorStore) -> None:
    codes = visit_codes(partitions, store, max_codes=PARTITIONS, life_ms=1_000)
    outcomes: list[Any] = await asyncio.gather(
        *[codes.create(str(uuid.uuid4())) for _ in range(50)], return_exceptions=True
    )
    refused = [one for one in outcomes if isinstance(one, RequestError)]
    assert {one.reason for one in refused} == {"LIMIT_REACHED"}
    assert len(outcomes) - len(refused) == PARTITIONS
    await asyncio.sleep(1.1)
    assert await codes.create(str(uuid.uuid4()))
    await asyncio.sleep(1.1)
    assert [key async for key in partitions.redis[0].scan_iter("code*")] == []
