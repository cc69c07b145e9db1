"""What the reports of all processes say together: the state of each part, counts, and what a person must do."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from footfall_eventlog.process_records import KEPT_MS, REPORT_EVERY_S, SLICE_MS, Run
from msgspec import Meta

from footfall_gateway.fields import Time
from footfall_gateway.recent import RefusedEvent, SlowRequest

_SILENT_MS: Final = int(3 * REPORT_EVERY_S * 1000)
_LAG_S: Final = 60
_LOG_SHARE: Final = 0.5
_MOST_STARTS: Final = 20
_MOST_SLOWEST: Final = 5
_HOUR_MS: Final = 3_600_000
_FAILURES: Final = "docs/ops/failures.md"
_OUTLET_LAG_S: Final = 300
_RELAY: Final = "docs/ops/relay.md"

PartName = Literal["gateway", "collector", "identity", "history", "relay", "redis", "mongodb"]
ProblemCode = Literal[
    "part_failed",
    "history_lags",
    "log_fills",
    "dead_letters",
    "gaps",
    "entries_lost",
    "store_went_back",
    "relay_silent",
    "outlets_lag",
    "outlets_lost",
    "outlet_dead_letters",
    "background_work_failed",
]
AS_USUAL: Final = "as usual"
BEACONS: Final[Mapping[str, str]] = {
    "collector": "answered 503; browsers keep events and send them again",
    "identity": "stored as usual",
    "history": "stored as usual; they wait in the event log",
    "redis": "answered 503; browsers keep events and send them again",
    "mongodb": "stored as usual; they wait in the event log",
}
QUERIES: Final[Mapping[str, str]] = {
    "collector": "answered as usual, without new events",
    "identity": "who is on the site now, identities and contacts are not answered",
    "history": "past visits, pages and events are not answered",
    "redis": "who is on the site now is not answered, and no person can sign in at the console",
    "mongodb": "past visits are not answered, and contacts are not known",
}
"""By part that fails, what that means for beacons and queries. The console translates these texts."""
_PAGES: Final[Mapping[str, str]] = {
    "collector": f"{_FAILURES}#beacons-are-answered-503",
    "redis": f"{_FAILURES}#beacons-are-answered-503",
    "history": f"{_FAILURES}#what-happens-if-a-part-is-unavailable",
    "identity": f"{_FAILURES}#what-happens-if-a-part-is-unavailable",
    "mongodb": f"{_FAILURES}#what-happens-if-a-part-is-unavailable",
}
_EMBEDDED: Final = {"redis": "valkey", "mongodb": "mongo"}


class HealthPart(msgspec.Struct, rename="camel"):
    """One part of the suite."""

    name: Annotated[PartName, Meta(description="The part.")]
    state: Annotated[
        Literal["ok", "failed", "unknown"],
        Meta(description="`unknown`: what would know it does not answer."),
    ]
    says: Annotated[str, Meta(description="How it is, in English.")]
    beacons: Annotated[str, Meta(description="What that means for beacons, in English.")]
    queries: Annotated[str, Meta(description="What that means for queries, in English.")]
    processes: Annotated[
        int | None, Meta(description="Processes that have reported in the last 15 s; null: not known, or a store.")
    ]
    start_time: Annotated[
        Time | None, Meta(description="When the process that started last did so (ms); null: not known, or a store.")
    ]


class HealthProblem(msgspec.Struct, rename="camel"):
    """Something that a person must do."""

    code: Annotated[ProblemCode, Meta(description="What is wrong.")]
    part: Annotated[PartName, Meta(description="The part that it is about.")]
    count: Annotated[
        int | None,
        Meta(description="How much: seconds, percent of the event log, or how many. null: it is not a number."),
    ]
    text: Annotated[str, Meta(description="What is wrong, in English.")]
    commands: Annotated[list[str], Meta(description="Commands to begin with, for `make run` and docker compose.")]
    page: Annotated[str, Meta(description="The page of the documentation that says what to do.")]


class RefusalExample(msgspec.Struct, rename="camel"):
    """The last event that was refused for a reason, without what it says."""

    time: Annotated[Time, Meta(description="When (ms).")]
    site: Annotated[str | None, Meta(description="The website, as sent; null: none was sent.")]
    event_name: Annotated[str | None, Meta(description="The name of the event; null: not readable.")]
    message: Annotated[str, Meta(description="Which field breaks which rule, in English.")]


class Refusals(msgspec.Struct, rename="camel"):
    """Events that were refused for one reason."""

    reason: Annotated[str, Meta(description="The reason, as in answers to beacons.")]
    count: Annotated[int, Meta(description="How many.", ge=0)]
    example: Annotated[RefusalExample | None, Meta(description="The last one; null: not known.")]


class EventSlice(msgspec.Struct, rename="camel"):
    """The events of ten minutes."""

    time: Annotated[Time, Meta(description="When they began (ms).")]
    stored: Annotated[int, Meta(description="Events that were stored.", ge=0)]
    refused: Annotated[int, Meta(description="Events that were refused.", ge=0)]


class EventCounts(msgspec.Struct, rename="camel"):
    """What became of events since `since`."""

    stored: Annotated[int, Meta(description="Stored in the event log.", ge=0)]
    suppressed: Annotated[int, Meta(description="Not stored, because the visitor objects.", ge=0)]
    unavailable: Annotated[int, Meta(description="Not known to be stored: browsers send them again.", ge=0)]
    refused: Annotated[list[Refusals], Meta(description="Refused, most first.")]
    duplicate: Annotated[int, Meta(description="Stored before; counted by history.", ge=0)]
    unstorable: Annotated[int, Meta(description="Became dead letters.", ge=0)]
    dropped: Annotated[int, Meta(description="Dropped, because their visit has too many dead letters.", ge=0)]
    lost_by_browsers: Annotated[int, Meta(description="Reported as dropped by tracking scripts.", ge=0)]
    beacons_refused: Annotated[
        dict[str, int], Meta(description="Beacons that were answered with an error, by HTTP status.")
    ]
    slices: Annotated[list[EventSlice], Meta(description="The same events by ten minutes, in order, without gaps.")]


class Backlog(msgspec.Struct, rename="camel"):
    """What waits. null: the part that knows it does not report."""

    history_lag_seconds: Annotated[
        float | None, Meta(description="Age of the oldest entry of the event log that history has not handled.")
    ]
    identity_unread_entries: Annotated[int | None, Meta(description="Entries that identity has not read.")]
    log_bytes: Annotated[int | None, Meta(description="Memory of the event log in Redis.")]
    log_bound_bytes: Annotated[int | None, Meta(description="Memory above which events are refused.")]
    slow_visits: Annotated[int | None, Meta(description="Slow visits and erasures that wait beside the log.")]
    dead_letters: Annotated[int | None, Meta(description="Dead letters.")]
    oldest_dead_letter_time: Annotated[Time | None, Meta(description="When the oldest came (ms); null also: none.")]


class SlowQuery(msgspec.Struct, rename="camel"):
    """A request that took long."""

    operation: Annotated[str, Meta(description="The operation, as in the API description.")]
    milliseconds: Annotated[int, Meta(description="How long it took.", ge=0)]
    time: Annotated[Time, Meta(description="When it was answered (ms).")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    request_id: Annotated[str, Meta(description="Its id in the logs of all services.")]


class Speed(msgspec.Struct, rename="camel"):
    """How long answers took."""

    query_p95_milliseconds: Annotated[
        int | None, Meta(description="95 of 100 queries of the last hour took at most so long; null: there were none.")
    ]
    beacon_p95_milliseconds: Annotated[
        int | None, Meta(description="The same for storing beacons, from gateway to event log.")
    ]
    slowest: Annotated[list[SlowQuery], Meta(description="The slowest requests since `since`, the slowest first.")]


class ProcessStart(msgspec.Struct, rename="camel"):
    """A process that started."""

    part: Annotated[PartName, Meta(description="The part.")]
    host: Annotated[str, Meta(description="The machine or container.")]
    time: Annotated[Time, Meta(description="When it started (ms).")]
    before: Annotated[
        Literal["stopped", "died"] | None,
        Meta(
            description="How the process of this part that reported last before it ended: it was `stopped` in order, "
            "or `died` (killed, or cut off from Redis). null: there was none."
        ),
    ]
    end_time: Annotated[Time | None, Meta(description="When that process reported last (ms).")]


class SystemHealth(msgspec.Struct, rename="camel"):
    """How the suite is, and what it has counted in the last day."""

    time: Annotated[Time, Meta(description="Now (ms).")]
    since: Annotated[
        Time | None,
        Meta(description="Counts begin here (ms): a day ago, or when the first process reported; null: not known."),
    ]
    word: Annotated[str, Meta(description="The state in words: `All well`, or how many things need a person.")]
    problems: Annotated[list[HealthProblem], Meta(description="What a person must do. Empty: nothing.")]
    parts: Annotated[list[HealthPart], Meta(description="All parts.")]
    backlog: Annotated[Backlog, Meta(description="What waits.")]
    events: Annotated[EventCounts | None, Meta(description="What became of events; null: Redis does not answer.")]
    speed: Annotated[Speed | None, Meta(description="How long answers took; null: Redis does not answer.")]
    starts: Annotated[
        list[ProcessStart] | None,
        Meta(description="Starts of processes since `since`, the last one first; null: Redis does not answer."),
    ]


def system_health(runs: Sequence[Run] | None, reasons: Mapping[str, str], now_ms: int) -> SystemHealth:
    """Put together the reports (None: Redis does not answer) and why services do not serve (empty: they do)."""
    alive = [run for run in runs or () if _is_alive(run, now_ms)]
    numbers = {run.about.kind: _greatest(run.about.kind, alive) for run in alive}
    parts = _parts(runs is not None, reasons, alive, numbers.get("identity", {}))
    backlog = _backlog(numbers)
    counts = _sums(runs or ())
    problems = [
        *_of_parts(parts),
        *_of_backlog(backlog, parts),
        *_of_losses(counts, numbers),
        *_of_relay(runs or (), counts, numbers),
    ]
    return SystemHealth(
        time=now_ms,
        since=max(now_ms - KEPT_MS, min(run.about.start_ms for run in runs)) if runs else None,
        word=_word(len(problems)),
        problems=problems,
        parts=parts,
        backlog=backlog,
        events=_events(runs, counts, now_ms) if runs is not None else None,
        speed=_speed(runs, now_ms) if runs is not None else None,
        starts=_starts(runs, now_ms) if runs is not None else None,
    )


def _is_alive(run: Run, now_ms: int) -> bool:
    return not run.report.is_last and now_ms - run.report.time_ms <= _SILENT_MS


def _greatest(kind: str, alive: Iterable[Run]) -> dict[str, float]:
    """The numbers of a kind of process. Processes report the same of shared stores, one of them a little later."""
    found: dict[str, float] = {}
    for run in alive:
        if run.about.kind == kind:
            for name, number in run.report.numbers.items():
                found[name] = max(number, found.get(name, number))
    return found


def _word(count: int) -> str:
    return {0: "All well", 1: "1 thing needs you"}.get(count, f"{count} things need you")


def _parts(
    redis_answers: bool, reasons: Mapping[str, str], alive: Sequence[Run], of_identity: Mapping[str, float]
) -> list[HealthPart]:
    def service(name: PartName, reason: str, says: str = "serves") -> HealthPart:
        of_kind = [run for run in alive if run.about.kind == name]
        started = max((run.about.start_ms for run in of_kind), default=None)
        return _part(name, "failed" if reason else "ok", reason or says, len(of_kind) or None, started)

    rebuilding = of_identity.get("rebuilding", 0)
    says_identity = (
        "builds live state again: visitors who have signed in may be shown as Anonymous" if rebuilding else "serves"
    )
    return [
        service("gateway", ""),
        service("collector", reasons["collector"]),
        service("identity", reasons["identity"], says_identity),
        service("history", reasons["history"]),
        _redis(redis_answers, reasons["collector"]),
        _mongodb(reasons["history"]),
    ]


def _part(
    name: PartName,
    state: Literal["ok", "failed", "unknown"],
    says: str,
    processes: int | None = None,
    started_ms: int | None = None,
) -> HealthPart:
    beacons, queries = (BEACONS[name], QUERIES[name]) if state == "failed" else (AS_USUAL, AS_USUAL)
    return HealthPart(name, state, says, beacons, queries, processes, started_ms)


def _redis(answers: bool, reason_of_collector: str) -> HealthPart:
    if not answers:
        return _part("redis", "failed", "does not answer the gateway")
    if reason_of_collector.startswith("Redis") or "replicas" in reason_of_collector:
        return _part("redis", "failed", reason_of_collector)
    return _part("redis", "ok", "answers")


def _mongodb(reason_of_history: str) -> HealthPart:
    if not reason_of_history:
        return _part("mongodb", "ok", "answers")
    if "MongoDB" in reason_of_history:
        return _part("mongodb", "failed", reason_of_history)
    return _part("mongodb", "unknown", "history does not say")


def _backlog(numbers: Mapping[str, Mapping[str, float]]) -> Backlog:
    def number(kind: str, name: str) -> int | None:
        found = numbers.get(kind, {}).get(name)
        return None if found is None else int(found)

    lag_s, oldest_s = numbers.get("history", {}).get("lag_seconds"), number("history", "oldest_dead_letter")
    return Backlog(
        history_lag_seconds=None if lag_s is None else round(lag_s, 1),
        identity_unread_entries=number("identity", "unread_entries"),
        log_bytes=number("collector", "log_bytes"),
        log_bound_bytes=number("collector", "log_bound_bytes"),
        slow_visits=number("history", "slow_visits"),
        dead_letters=number("history", "dead_letters"),
        oldest_dead_letter_time=oldest_s * 1000 if oldest_s else None,
    )


def _of_parts(parts: Iterable[HealthPart]) -> Iterable[HealthProblem]:
    for part in parts:
        if part.state == "failed":
            program = _EMBEDDED.get(part.name, part.name)
            text = f"{_title(part.name)} has a problem: {part.says}. Beacons: {part.beacons}. Queries: {part.queries}."
            yield HealthProblem("part_failed", part.name, None, text, _logs_of(program), _PAGES[part.name])


def _of_backlog(backlog: Backlog, parts: Iterable[HealthPart]) -> Iterable[HealthProblem]:
    serving = {part.name for part in parts if part.state == "ok"}
    lag_s = round(backlog.history_lag_seconds or 0)
    if lag_s > _LAG_S and "history" in serving:
        text = f"History is {lag_s} s behind: queries lack the newest events."
        yield HealthProblem("history_lags", "history", lag_s, text, _logs_of("history"), f"{_FAILURES}#history-lags")
    used, bound = backlog.log_bytes or 0, backlog.log_bound_bytes or 0
    if bound and used > bound * _LOG_SHARE:
        percent = 100 * used // bound
        text = f"The event log has {percent}% of the memory it may have. At 100% beacons are refused."
        yield HealthProblem("log_fills", "redis", percent, text, [], f"{_FAILURES}#log-full")
    if count := backlog.dead_letters or 0:
        text = "1 event could not be stored." if count == 1 else f"{count:,} events could not be stored."
        text += " Repair what is wrong, then replay."
        command = ".venv/bin/footfall-history dead-letters"
        commands = [f"{command} list", f"{command} replay --all"]
        yield HealthProblem("dead_letters", "history", count, text, commands, f"{_FAILURES}#dead-letters")


def _of_losses(counts: Mapping[str, float], numbers: Mapping[str, Mapping[str, float]]) -> Iterable[HealthProblem]:
    restored = f"{_FAILURES}#a-store-is-restored-from-a-backup"
    for part in ("history", "identity"):
        if gaps := int(numbers.get(part, {}).get("gaps", 0)):
            text = f"MongoDB has lost data that the event log no longer holds either. Gaps of {part}: {gaps}."
            command = f".venv/bin/footfall-{part} gaps list"
            yield HealthProblem("gaps", "mongodb", gaps, text, [command], f"{_FAILURES}#gaps")
    if lost := _count(counts, "lost_entries"):
        text = "Entries have left the event log unread: another program removed them, or Redis has lost data."
        yield HealthProblem("entries_lost", "redis", lost, text, [], restored)
    if times := _count(counts, "went_back"):
        text = "A store has gone back to an earlier state."
        yield HealthProblem("store_went_back", "redis", times, text, [], restored)
    if times := _count(counts, "background_failures"):
        text = f"Work beside serving has failed unexpectedly, {times} times. The logs have the stack: report it."
        command = """grep '"level": "error"' .data/log/*.log | tail -n 5"""
        yield HealthProblem("background_work_failed", "gateway", times, text, [command], "docs/ops/run.md#logs")


def _of_relay(
    runs: Sequence[Run], counts: Mapping[str, float], numbers: Mapping[str, Mapping[str, float]]
) -> Iterable[HealthProblem]:
    """Where there is a relay, which is not a part of every suite."""
    page, command = f"{_RELAY}#when-an-outlet-does-not-take-messages", ".venv/bin/footfall-relay"
    relays = [run for run in runs if run.about.kind == "relay"]
    of_relay = numbers.get("relay")
    if of_relay is None and relays and not max(relays, key=lambda run: run.report.time_ms).report.is_last:
        text = "The relay no longer reports: outlets get nothing."
        yield HealthProblem("relay_silent", "relay", None, text, _logs_of("relay"), page)
    lag_s = round((of_relay or {}).get("lag_seconds", 0))
    if lag_s > _OUTLET_LAG_S:
        text = f"Outlets of the relay are {lag_s} s behind, together."
        yield HealthProblem("outlets_lag", "relay", lag_s, text, [f"{command} outlets"], page)
    if lost := _count(counts, "outlet_lost_entries"):
        text = f"Outlets have lost {lost:,} entries of the event log: it does not wait longer for them."
        yield HealthProblem("outlets_lost", "relay", lost, text, [f"{command} outlets"], page)
    if letters := int((of_relay or {}).get("dead_letters", 0)):
        text = f"Outlets did not take messages. Dead letters: {letters:,}."
        yield HealthProblem("outlet_dead_letters", "relay", letters, text, [f"{command} outlets"], page)


def _title(name: str) -> str:
    return {"mongodb": "MongoDB"}.get(name, name.capitalize())


def _logs_of(program: str) -> list[str]:
    return [f"tail -n 20 .data/log/{program}.log", f"docker compose logs --tail 20 {program}"]


def _sums(runs: Iterable[Run], since_ms: int = 0) -> Counter[str]:
    counts: Counter[str] = Counter()
    for run in runs:
        for start_ms, counted in run.slices.items():
            if start_ms >= since_ms:
                counts.update({name: int(count) for name, count in counted.items()})
    return counts


def _count(counts: Mapping[str, float], prefix: str) -> int:
    return int(sum(count for name, count in counts.items() if name == prefix or name.startswith(f"{prefix}/")))


def _events(runs: Sequence[Run], counts: Mapping[str, float], now_ms: int) -> EventCounts:
    prefix = "events/rejected/"
    refused = {name.removeprefix(prefix): int(count) for name, count in counts.items() if name.startswith(prefix)}
    examples = _examples(runs)
    statuses = {name.removeprefix("beacons/"): int(count) for name, count in counts.items() if name[:8] == "beacons/"}
    return EventCounts(
        stored=_count(counts, "events/stored"),
        suppressed=_count(counts, "events/suppressed"),
        unavailable=_count(counts, "events/unavailable"),
        refused=[
            Refusals(reason, count, examples.get(reason))
            for reason, count in sorted(refused.items(), key=lambda one: (-one[1], one[0]))
        ],
        duplicate=_count(counts, "history_events/duplicate"),
        unstorable=_count(counts, "history_events/unstorable"),
        dropped=_count(counts, "history_events/dropped"),
        lost_by_browsers=_count(counts, "lost_by_browsers"),
        beacons_refused={status: count for status, count in sorted(statuses.items()) if status >= "400"},
        slices=_slices(runs, now_ms),
    )


def _examples(runs: Iterable[Run]) -> dict[str, RefusalExample]:
    last: dict[str, RefusedEvent] = {}
    for run in runs:
        for reason, event in _note(run, "refused", dict[str, RefusedEvent], {}).items():
            if reason not in last or event.time_ms > last[reason].time_ms:
                last[reason] = event
    return {
        reason: RefusalExample(event.time_ms, event.site or None, event.event_name or None, event.message)
        for reason, event in last.items()
    }


def _slices(runs: Sequence[Run], now_ms: int) -> list[EventSlice]:
    stored: Counter[int] = Counter()
    refused: Counter[int] = Counter()
    for run in runs:
        for start_ms, counts in run.slices.items():
            stored[start_ms] += _count(counts, "events/stored")
            refused[start_ms] += _count(counts, "events/rejected")
    first = min((*stored, *refused), default=now_ms)
    return [EventSlice(at, stored[at], refused[at]) for at in range(first, now_ms + 1, SLICE_MS)]


def _speed(runs: Sequence[Run], now_ms: int) -> Speed:
    last_hour = _sums(runs, now_ms - _HOUR_MS)
    slowest = sorted((one for run in runs for one in _note(run, "slowest", list[SlowRequest], [])), reverse=True)
    kept = [one for one in slowest if one.time_ms >= now_ms - KEPT_MS][:_MOST_SLOWEST]
    return Speed(
        _p95(last_hour, "query_seconds"),
        _p95(last_hour, "collect_seconds"),
        [SlowQuery(one.operation, round(one.seconds * 1000), one.time_ms, one.status, one.request_id) for one in kept],
    )


def _p95(counts: Mapping[str, float], histogram: str) -> int | None:
    """The upper bound of the bucket in which the 95th of 100 is, in ms; of the last bucket, its lower bound."""
    prefix = f"{histogram}/"
    up_to = sorted((float(name.removeprefix(prefix)), n) for name, n in counts.items() if name.startswith(prefix))
    if not up_to:
        return None
    bound = next(bound for bound, count in up_to if count >= 0.95 * up_to[-1][1])
    known = [bound for bound, _ in up_to if bound != float("inf")]
    return round(1000 * min(bound, known[-1])) if known else None


def _starts(runs: Sequence[Run], now_ms: int) -> list[ProcessStart]:
    found: list[ProcessStart] = []
    for run in runs:
        kind, started = run.about.kind, run.about.start_ms
        if started < now_ms - KEPT_MS:
            continue
        ended = [
            one
            for one in runs
            if one.about.kind == kind and one.report.time_ms <= started and not _is_alive(one, now_ms)
        ]
        last = max(ended, key=lambda one: one.report.time_ms, default=None)
        before: Literal["stopped", "died"] | None = None
        if last:
            before = "stopped" if last.report.is_last else "died"
        name: Any = kind
        found.append(ProcessStart(name, run.about.host, started, before, last.report.time_ms if last else None))
    return found[::-1][:_MOST_STARTS]


def _note(run: Run, name: str, of: Any, default: Any) -> Any:
    """A note of a report; the default if there is none, or another version has written it."""
    try:
        return msgspec.json.decode(run.report.notes[name], type=of)
    except (KeyError, msgspec.DecodeError):
        return default
