"""`footfall-policy simulate`: its report is the difference of two histories that really ran under either policy."""

import asyncio
import json
import os
import random
import stat
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec
import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall.history.v1 import history_service_pb2 as pb
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_history.ingest.attribution import Attributor
from footfall_history.policies.__main__ import main
from footfall_history.policies.identity_pairs import IdentityPairs
from footfall_history.policies.page import to_html
from footfall_history.policies.report import Report
from footfall_history.policies.simulator import Pace, Range, Simulator
from footfall_history.storage.documents import Document, event_time_ms
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from footfall_history.storage.visit import Visit
from footfall_servicekit.errors import details_of
from footfall_timeline import State
from google.protobuf.timestamp_pb2 import Timestamp
from pymongo import MongoClient

from deploy.mongo_indexes import make_indexes
from tests.service.history.conftest import ERASURE_KEY, Listener
from tests.tools.attributions import attribution_at
from tests.tools.batches import context, message
from tests.tools.eventually import eventually
from tests.tools.identity_changes import identity_changes
from tests.tools.process import Running
from tests.tools.visits import now_ms

MAX_TRANSITIONS = 6
FORMER = """
version = "former"
user_id_keys = ["userID", "customerId", "email", "login"]
placeholders = ["demo"]
"""
TRIED = """
version = "tried"
user_id_keys = ["customerId", "userID", "email"]
placeholders = ["kiosk", "+49 30 5550100", "family@mail.example"]
persons = ["guest"]

[[site]]
name = "bank"
placeholders = ["ann"]
persons = ["demo"]
"""
"""Swaps the first two keys, no longer knows `login`, and judges other values."""


@dataclass
class Traffic:
    """Visits of a few people at some websites: pages, and people who sign in and out under several keys."""

    visits: int
    chance: random.Random = field(default_factory=lambda: random.Random(26))  # noqa: S311 - traffic is no secret
    start_ms: int = field(default_factory=lambda: now_ms() - 2 * DAY_MS)

    def batches(self) -> Iterator[EventBatch]:
        """The events of a few visits each, as they arrive: in any order, some twice."""
        arriving: list[Event] = []
        request = context(sent_time_ms=now_ms())
        for number in range(self.visits):
            arriving += self._visit(self.start_ms + number * DAY_MS // self.visits)
            if len(arriving) > 1_000 or number == self.visits - 1:
                arriving += self.chance.sample(arriving, len(arriving) // 10)
                self.chance.shuffle(arriving)
                for first in range(0, len(arriving), 600):
                    yield EventBatch(contexts=[request], events=arriving[first : first + 600])
                arriving = []

    def _visit(self, at_ms: int) -> list[Event]:
        site, visit_id = self.chance.choice(["shop", "bank"]), self._id()
        kinds = ["PageEntered", "PageExited", "AddToCart", "SignIn", "UserInfo", "SignOut"]
        names = ["VisitStarted", *self.chance.choices(kinds, k=self.chance.randint(1, 12))]
        events = []
        for name in names:
            at_ms += self.chance.choice([0, 1, 500, 20_000])
            data = self._who() if name in {"SignIn", "UserInfo"} else {}
            event_id = self._id()
            events.append(message(name, data, event_id=event_id, visit_id=visit_id, site=site, timestamp_ms=at_ms))
        return events

    def _id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def _who(self) -> dict[str, Any]:
        number = self.chance.randint(1, max(4, self.visits // 20))
        named = self.chance.choice(
            [
                {"userID": f"user-{number}"},
                {"userID": f"user-{number}", "customerId": f"c-{number // 2}"},  # two users are one customer
                {"userID": f"family-{number // 2}", "customerId": f"c-{number}"},  # one user is two customers
                {"userID": f"only-{number}", "customerId": f"renamed-{number}"},
                {"userID": self.chance.choice(["guest", "demo", "ann", "kiosk", "undefined", "", "{{id}}"])},
                {"email": f"person-{number}@mail.example"},
                {"login": f"login-{number}"},
            ]
        )
        phone = self.chance.choice([{}, {"phone": "+49 30 5550100"}, {"mail": "family@mail.example"}])
        return named | phone


async def fill(store: Store, traffic: Traffic, policy: IdentityPolicy) -> int:
    """Store what the collector admits of the traffic under a policy. Returns the number of events."""
    rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=policy.of_site)
    attributor = Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=MAX_TRANSITIONS)
    count = 0
    for batch in traffic.batches():
        excluded = rules.admit(batch, now_ms())
        kept = [event for position, event in enumerate(batch.events) if position not in excluded]
        result = await attributor.store([EventBatch(contexts=batch.contexts, events=kept)])
        assert not result.unstorable
        count += result.stored_count
    return count


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    name = f"test_{uuid.uuid4().hex}"
    with MongoClient[Any](url) as client:
        make_indexes(client[name])
    store = Store.open(url, name, 20_000)
    try:
        await store.prepare()
        yield store
    finally:
        await store.close()


async def simulated(store: Store, policy: IdentityPolicy, visits: Range | None = None) -> Report:
    with IdentityPairs() as pairs:
        simulator = Simulator(
            store,
            Tombstones(store, ERASURE_KEY),
            pairs,
            policy,
            (),
            max_transitions=MAX_TRANSITIONS,
            max_examples=3,
        )
        visits = visits or Range(None, now_ms() + DAY_MS)
        await simulator.run(visits, Pace(None))
        return simulator.report(visits, 1_000_000)  # all changed identities


async def first_visits(store: Store, count: int) -> list[Document]:
    return await store.find_visits({"start_key": {"$gte": ""}}, count, ["start_key"])


class Past(NamedTuple):
    """All that a history holds: visits and events by their document ids."""

    visits: dict[str, Visit]
    events: dict[str, Document]

    @classmethod
    async def read(cls, store: Store) -> "Past":
        """Read a history."""
        visits = {}
        async for document in store.each_visit({"start_key": {"$gte": ""}}):
            visits[document["_id"]] = Visit.from_document(document)
        ids = [*visits]
        events = {}
        for first in range(0, len(ids), 500):
            for one in await store.events_with("visit_id", ids[first : first + 500], {}, None, 0):
                events[one["_id"]] = one
        return cls(visits, events)


REASONS = {1: "blank", 2: "placeholder", 3: "template", 4: "empty_hash"}


def word(event: Document | None) -> str:
    """How a stored event was decided."""
    return "rejected" if event is None else REASONS.get(event.get("ignored_reason", 0), "named")


def expected(one: Past, other: Past) -> dict[str, Any]:
    """The report that two histories amount to, counted naively."""
    states: Counter[tuple[str, str]] = Counter()
    changes: Counter[str] = Counter()
    with_other_course = _with_other_attribution(one, other)
    for visit_id, visit in one.visits.items():
        before, after = visit.visit_state.attribution, other.visits[visit_id].visit_state.attribution
        states[before.state.name, after.state.name] += 1
        if before.state != after.state:
            changes["state"] += 1
        elif before.identity != after.identity:
            changes["identity"] += 1
        else:
            changes["course"] += visit_id in with_other_course
    decisions: Counter[tuple[str, str]] = Counter()
    evidence: Counter[tuple[str, bool]] = Counter()
    identities: list[tuple[str, str]] = []
    for event_id, event in one.events.items():
        if event["event_name"] not in {"SignIn", "UserInfo"}:
            continue
        again = other.events.get(event_id)
        names = event.get("names_identity_id", ""), (again or {}).get("names_identity_id", "")
        decisions[word(event), "other_user" if all(names) and names[0] != names[1] else word(again)] += 1
        identities.append(names)
        if all(names) and event["event_name"] == "SignIn" and again:
            keys = {*event.get("ignored_keys", ())}, {*again.get("ignored_keys", ())}
            evidence.update({(key, key in keys[0]): 1 for key in keys[0] ^ keys[1]})
    counts, changed = identity_changes(identities)
    return {
        "visits": len(one.visits),
        "states": states,
        "changes": changes,
        "sessions": tuple(sum(len(v.visit_state.sessions) for v in past.visits.values()) for past in (one, other)),
        "decisions": decisions,
        "evidence": evidence,
        "identities": counts,
        **changed,
    }


def _with_other_attribution(one: Past, other: Past) -> set[str]:
    """The visits with an event whose stored attribution is not that of the other history at its moment."""
    found = set()
    for event in one.events.values():
        stored = State(event["state"]), event.get("identity_id", ""), event.get("session_id", "")
        visit_state = other.visits[event["visit_id"]].visit_state
        if attribution_at(visit_state, event_time_ms(event["order_key"]), event["event_id"])[:3] != stored:
            found.add(event["visit_id"])
    return found


def reported(report: Report) -> dict[str, Any]:
    """The same of a report."""
    changed = report.changed_visits
    changes = {"state": changed.state, "identity": changed.identity, "course": changed.course}
    identities = report.identities
    return {
        "visits": report.visits,
        "states": {(row.before, row.after): row.visits for row in report.states},
        "changes": changes,
        "sessions": (report.sessions_before, report.sessions_after),
        "decisions": {(row.before, row.after): row.events for row in report.decisions},
        "evidence": {(row.key, row.after): row.events for row in report.evidence},
        "identities": (identities.before, identities.after),
    } | {
        kind: {one.identity_id for one in getattr(identities, kind).largest}
        for kind in ("merged", "split", "vanished", "new", "renamed")
    }


@pytest.fixture
def policies(tmp_path: Path) -> tuple[IdentityPolicy, IdentityPolicy]:
    """The former policy and the one that is tried."""
    (former := tmp_path / "former.toml").write_text(FORMER, encoding="utf-8")
    (tried := tmp_path / "tried.toml").write_text(TRIED, encoding="utf-8")
    return IdentityPolicy.load(former), IdentityPolicy.load(tried)


async def test_the_report_is_the_difference_of_two_histories(
    store: Store, mongo_url: str, listener: Listener, policies: tuple[IdentityPolicy, IdentityPolicy]
) -> None:
    former, tried = policies
    start_ms = now_ms() - 2 * DAY_MS
    async with opened(mongo_url) as other:
        await fill(store, Traffic(150, start_ms=start_ms), former)
        await fill(other, Traffic(150, start_ms=start_ms), tried)
        # Some visits count as long: their events are read in another way.
        await store.note_last_keys({visit["_id"]: visit["start_key"] for visit in await first_visits(store, 30)})
        listener.commands.clear()
        report = await simulated(store, tried)
        assert {command.command_name for command in map(_Named, listener.commands)} <= READS
        wanted = expected(await Past.read(store), await Past.read(other))
        assert reported(report) == wanted
        assert all(wanted["changes"].values())
        assert all(wanted[kind] for kind in ("merged", "split", "vanished", "new", "renamed", "evidence"))
        assert any(visit.is_truncated for visit in (await Past.read(store)).visits.values())
        assert [version.version for version in report.stored_versions] == [former.version]
        _check_examples(report)
        # The policy in force changes nothing.
        same = await simulated(store, former)
        assert reported(same)["changes"] == {"state": 0, "identity": 0, "course": 0}
        assert all(row.before == row.after for row in same.decisions)
        assert (same.examples, same.evidence, same.identities.before) == ([], [], same.identities.after)


async def test_visits_of_staff_are_left_out(store: Store, policies: tuple[IdentityPolicy, IdentityPolicy]) -> None:
    former = IdentityPolicy.parse(FORMER + '[[site]]\nname = "desk"\nstaff = true\n', "former")
    at_ms = now_ms() - 60_000
    rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, staff_rules=lambda: former.staff)
    events = [message("SignIn", {"userID": "kiosk"}, site=site, timestamp_ms=at_ms) for site in ("desk", "shop")]
    sent = EventBatch(contexts=[EventContext()], events=events)
    assert rules.admit(sent, now_ms()) == {}
    await Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=MAX_TRANSITIONS).store([sent])
    report = await simulated(store, policies[1])
    assert (report.visits, report.staff_visits, report.changed_visits.state) == (1, 1, 1)


async def test_a_caller_tries_a_policy_until_it_is_done_or_cancelled(
    running_history: Running, store: Store, policies: tuple[IdentityPolicy, IdentityPolicy]
) -> None:
    former, tried = policies
    await fill(store, Traffic(150), former)
    async with running_history(MAX_TRANSITIONS_PER_VISIT=MAX_TRANSITIONS) as history, history.stub() as stub:
        request = pb.SimulatePolicyRequest(policy=TRIED, max_examples=3, max_identities=1_000)
        visits, report = await answers_of(stub, request)
        assert visits == report.visits == 150
        assert reported(report) == reported(await simulated(store, tried))
        slow = stub.SimulatePolicy(pb.SimulatePolicyRequest(policy=TRIED, visits_per_second=1))
        assert 0 < (await slow.read()).progress.visit_count < 150
        [worker] = children(history.process.pid)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SimulatePolicy(request).read()
        assert details_of(refused.value).reason == "LIMIT_REACHED"
        slow.cancel()

        async def ended() -> None:
            assert worker not in children(history.process.pid)

        await eventually(ended)
        request.sites.append("bank")
        request.policy = 'version = "1"'
        _, report = await answers_of(stub, request)
        assert report.sites == ["bank"]
        assert 0 < report.visits < 150
        for wrong, field in (
            ({"policy": "placeholders = 7"}, "policy"),
            ({"start_time": Timestamp(seconds=10**15)}, "start_time"),
            ({"user_id_keys": [""]}, "user_id_keys"),
            ({"max_examples": -1}, "max_examples"),
            ({"visits_per_second": float("nan")}, "visits_per_second"),
        ):
            asked: dict[str, Any] = {"policy": TRIED} | wrong
            with pytest.raises(grpc.aio.AioRpcError) as invalid:
                await stub.SimulatePolicy(pb.SimulatePolicyRequest(**asked)).read()
            assert [name for name, _ in details_of(invalid.value).violations] == [field]
        assert "Traceback" not in history.output()


async def answers_of(stub: Any, request: pb.SimulatePolicyRequest) -> tuple[int, Report]:
    """How many visits the last progress reports, and the report."""
    answers = [one async for one in stub.SimulatePolicy(request)]
    [*_, last] = [one.progress for one in answers if one.HasField("progress")]
    return last.visit_count, msgspec.json.decode(b"".join(one.report_part for one in answers), type=Report)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


READS = {"aggregate", "find", "getMore", "killCursors"}


class _Named:
    """A command with its name: that of its first field."""

    def __init__(self, command: Any) -> None:
        self.command_name = next(iter(command))


def _check_examples(report: Report) -> None:
    assert Counter(example.change for example in report.examples) == {"state": 3, "identity": 3, "course": 3}
    for example in report.examples:
        last = example.events[-1]
        assert not example.more_events
        if example.change == "state":
            assert last.before.state != last.after.state
        if example.change == "identity":
            assert (last.before.state, last.before.identity_id != last.after.identity_id) == (last.after.state, True)
        assert any(one.before != one.after for one in example.events)
        for one in example.events:
            assert one.event_name in {"SignIn", "UserInfo", "SignOut"}
            assert (one.before.rule == "ignored") == bool(one.before.reason)


@pytest.mark.long
@pytest.mark.timeout(3_000)
async def test_the_same_of_200_000_events_in_limited_memory(
    store: Store, mongo_url: str, mongo_database: str, policies: tuple[IdentityPolicy, IdentityPolicy], tmp_path: Path
) -> None:
    former, tried = policies
    start_ms = now_ms() - 2 * DAY_MS
    visits = 30_000
    async with opened(mongo_url) as other:
        assert await fill(store, Traffic(visits, start_ms=start_ms), former) > 200_000
        await fill(other, Traffic(visits, start_ms=start_ms), tried)
        started = time.monotonic()
        report = await simulated(store, tried)
        print(f"{report.visits:,} visits in {time.monotonic() - started:.0f} s")  # noqa: T201 - for whoever runs it
        assert reported(report) == expected(await Past.read(store), await Past.read(other))
    settings = environment(mongo_url, mongo_database)
    sizes = []
    for part in (20, 1):
        end_s = (start_ms + DAY_MS // part) / 1000
        to = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(end_s))
        arguments = ["simulate", "--policy", str(tmp_path / "tried.toml"), "--to", to]
        sizes.append(await asyncio.to_thread(_memory_of, arguments, settings))
    assert sizes[1] - sizes[0] < 40_000  # KiB: the cache of SQLite has 16 MiB


def _memory_of(arguments: list[str], env: dict[str, str]) -> int:
    """The largest memory of a run of the command, in KiB."""
    process = subprocess.Popen([COMMAND, *arguments], env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


COMMAND = Path(sys.executable).with_name("footfall-policy")


def environment(mongo_url: str, mongo_database: str) -> dict[str, str]:
    return os.environ | {
        "MONGO_URL": mongo_url,
        "MONGO_DATABASE": mongo_database,
        "ERASURE_KEY": ERASURE_KEY,
        "MAX_TRANSITIONS_PER_VISIT": str(MAX_TRANSITIONS),
    }


async def run(*arguments: str | Path, env: dict[str, str]) -> tuple[int, str, str]:
    """Run the command; exit code, output and errors."""
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(COMMAND, *arguments, env=env, stdout=pipe, stderr=pipe)
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


class Tags(HTMLParser):
    """The tags of a page and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


HOSTILE = '<script src="https://evil.example">alert(1)</script>\u202e\u200b'


async def test_the_command_writes_both_reports(
    store: Store, mongo_url: str, mongo_database: str, policies: tuple[IdentityPolicy, IdentityPolicy], tmp_path: Path
) -> None:
    visit_id, at_ms = str(uuid.uuid4()), now_ms() - 60_000
    rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=policies[0].of_site)
    where = {"visit_id": visit_id, "site": "shop"}
    sent = EventBatch(
        contexts=[EventContext()],
        events=[
            message("SignIn", {"userID": "kiosk"}, **where, timestamp_ms=at_ms),
            message("UserInfo", {"userID": HOSTILE, "customerId": "c-1"}, **where, timestamp_ms=at_ms + 1),
        ],
    )
    assert rules.admit(sent, now_ms()) == {}
    await Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=6).store([sent])
    settings, page, data = environment(mongo_url, mongo_database), tmp_path / "report.html", tmp_path / "report.json"
    command: list[str | Path] = ["simulate", "--policy", tmp_path / "tried.toml", "--html", page, "--json", data]
    code, output, errors = await run(*command, env=settings)
    assert code == 0, errors
    assert "tried on 1 visits with 2 events" in output
    assert HOSTILE not in output
    assert "1 visits with 2 events that identify" in errors
    report = json.loads(data.read_bytes())
    assert report["changed_visits"] == {"state": 1, "identity": 0, "course": 0}
    [example] = report["examples"]
    assert [(one["before"]["rule"], one["after"]["rule"]) for one in example["events"]] == [
        ("sign_in.opens_session", "ignored"),
        ("user_info.other_identity", "user_info.recognizes"),
    ]
    assert report["identities"]["renamed"]["largest"][0]["identity_id"] == HOSTILE
    assert stat.S_IMODE(page.stat().st_mode) == stat.S_IMODE(data.stat().st_mode) == 0o600
    tags = Tags(page.read_text(encoding="utf-8"))
    assert not {*tags.tags} & {"script", "img", "link", "a", "iframe", "form"}
    assert not tags.attributes & {"src", "href", "onload", "onclick", "style"}
    shown = "".join(tags.texts)
    assert '<script src="https://evil.example">alert(1)</script>\\u202e\\u200b' in shown
    code, output, errors = await run(*command, "--site", "bank", "--from", "2020-01-01", env=settings)
    assert (code, "tried on 0 visits" in output) == (0, True), errors
    for visits, count in (
        (Range(at_ms, at_ms + 1), 1),
        (Range(None, at_ms), 0),
        (Range(at_ms + 1, at_ms + DAY_MS), 0),
        (Range(None, at_ms + 1, ["bank", "shop"]), 1),
    ):
        assert (await simulated(store, policies[1], visits)).visits == count
    # The JSON has all that the page shows, and follows its schema.
    assert to_html(msgspec.json.decode(data.read_bytes(), type=Report)).startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("policy", "arguments", "said"),
    [
        ("placeholders = 7\n", [], "policy.toml:1: placeholders"),
        ('version = "1"\n', ["--from", "yesterday"], "--from: must be a time"),
        ('version = "1"\n', ["--rate", "0"], "--rate: must be greater than 0"),
        ('version = "1"\n', ["--examples", "-1"], "--examples: must be 0 to 1,000"),
        ('version = "1"\n', ["--user-id-keys", ","], "--user-id-keys: must be keys"),
    ],
)
def test_a_wrong_policy_or_argument_is_refused(
    policy: str,
    arguments: list[str],
    said: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (file := tmp_path / "policy.toml").write_text(policy, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["footfall-policy", "simulate", "--policy", str(file), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, said in capsys.readouterr().err) == (2, True)


async def test_a_report_that_cannot_be_written_is_a_failure(
    mongo_url: str, mongo_database: str, tmp_path: Path
) -> None:
    settings = environment(mongo_url, mongo_database)
    (file := tmp_path / "policy.toml").write_text('version = "1"\n', encoding="utf-8")
    code, _, errors = await run("simulate", "--policy", file, "--html", tmp_path / "no" / "file", env=settings)
    assert (code, "cannot be written" in errors) == (1, True)


async def test_an_erased_person_is_not_named_again(
    store: Store, tombstones: Tombstones, policies: tuple[IdentityPolicy, IdentityPolicy]
) -> None:
    former, tried = policies
    visit_id, at_ms = str(uuid.uuid4()), now_ms() - 60_000
    rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=former.of_site)
    sent = EventBatch(
        contexts=[EventContext()],
        events=[
            message("SignIn", {"userID": "ann", "customerId": "c-1"}, visit_id=visit_id, timestamp_ms=at_ms + moment)
            for moment in (0, 30_000)
        ],
    )
    assert rules.admit(sent, now_ms()) == {}
    await Attributor(store, tombstones, max_transitions=MAX_TRANSITIONS).store([sent])
    await store.put_tombstone(tombstones.hash_of("c-1"), at_ms + 10_000, tombstones.key_check)
    report = await simulated(store, tried)
    assert {(row.before, row.after): row.events for row in report.decisions} == {
        ("named", "erased"): 1,
        ("named", "other_user"): 1,
    }
    [example] = report.examples
    assert [(one.after.rule, one.after.names) for one in example.events] == [
        ("erased", ""),
        ("sign_in.opens_session", "c-1"),
    ]


async def test_the_rate_of_visits_is_limited() -> None:
    started = time.monotonic()
    await Pace(100).pause(20, 0.05)
    assert 0.15 <= time.monotonic() - started < 1
    started = time.monotonic()
    await Pace(None).pause(1_000, 0.1)
    assert 0.1 <= time.monotonic() - started < 1
