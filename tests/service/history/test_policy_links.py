"""`footfall-policy simulate` reports links: the difference of two identity services that run under either policy."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from footfall.event.v1.event_pb2 import EventBatch
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.redact import Redactor
from footfall_collector.sites import Sites
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from footfall_history.storage.tombstones import Tombstones
from redis.asyncio import Redis

from tests.conftest import REDIS_DATABASES
from tests.service.history.conftest import ERASURE_KEY
from tests.service.history.test_history_policies import MAX_TRANSITIONS, Traffic, environment, run
from tests.tools.eventually import eventually
from tests.tools.process import running_service
from tests.tools.visits import now_ms

FORMER = 'version = "former"\nmax_identities_per_value = 4\nmax_devices_per_day = 3\n'
SWAPPED = FORMER.replace("former", "swapped") + 'link_rules = ["phone_number", "email_address", "name"]\n'
OTHER = """
version = "other"
user_id_keys = ["customerId", "userID"]
placeholders = ["+49 30 1000001"]
link_rules = ["name", "phone_number"]
max_identities_per_value = 6
max_devices_per_day = 2
phone_keys = ["mobile"]
"""
"""Swaps the rules, leaves one out, and changes all that links depend on."""

Link = tuple[str, str, str]
"""Status, rule and contact of an identity."""
SITES: Final = ("--site", "shop", "--site", "bank")
NO_LINK: Final = ("unlinked", "", "")


@dataclass
class LinkTraffic(Traffic):
    """People whose e-mail addresses, numbers and names are those of different contacts, and some that many share."""

    people: int = 60
    devices: Sequence[str] = field(default_factory=list)

    def _visit(self, at_ms: int) -> list[Any]:
        self.devices = self.devices or [self._id() for _ in range(50)]
        device = self.devices[0] if self.chance.random() < 0.97 else self.chance.choice(self.devices)
        events = super()._visit(at_ms)
        for event in events:
            event.global_visit_id = device
        return events

    def _who(self) -> dict[str, Any]:
        number = self.chance.randint(1, self.people)
        given = {
            "email": f"person-{self._near(number)}@mail.example",
            "phone": f"+49 30 {1_000_000 + self._near(number)}",
            "mobile": f"+49 30 {1_000_000 + self._near(number)}",
            "firstName": "Person",
            "lastName": f"Number{self._near(number)}",
        }
        said = {key: value for key, value in given.items() if self.chance.random() < 0.6}
        if number // 5 % 4 == 0:
            said = dict.fromkeys(("phone", "mobile"), f"+49 30 {2_000_000 + number // 5}")  # that of a family of five
        elif self.chance.random() < 0.05:
            said["phone"] = said["mobile"] = "+49 30 5550100"  # of the call center
        named = {"userID": f"user-{number}"} | ({"customerId": f"c-{number // 2}"} if number % 7 == 0 else {})
        return said | (named if self.chance.random() < 0.95 else {"userID": "kiosk"})

    def _near(self, number: int) -> int:
        """Mostly the person's own, sometimes that of another."""
        return number if self.chance.random() < 0.8 else self.chance.randint(1, self.people)

    def contacts(self) -> Iterator[contact_pb2.Contact]:
        """Contacts: of most people one for each attribute, of some two with the same."""
        for number in range(1, self.people + 1):
            yield contact_pb2.Contact(contact_id=f"e-{number}", email_addresses=[f"person-{number}@mail.example"])
            yield contact_pb2.Contact(contact_id=f"p-{number}", phone_numbers=[f"+49 30 {1_000_000 + number}"])
            yield contact_pb2.Contact(contact_id=f"n-{number}", first_name="Person", last_name=f"Number{number}")
            yield contact_pb2.Contact(contact_id=f"f-{number}", phone_numbers=[f"+49 30 {2_000_000 + number}"])
            if number % 9 == 0:
                yield contact_pb2.Contact(contact_id=f"x-{number}", phone_numbers=[f"+49 30 {1_000_000 + number}"])
        yield contact_pb2.Contact(contact_id="center", phone_numbers=["+49 30 5550100"])


class Suite(NamedTuple):
    """An identity service with its policy."""

    stub: Any
    target: str
    policy: IdentityPolicy

    async def arrive(self, traffic: LinkTraffic, store: Store | None = None) -> int:
        """Take in what the collector admits of the traffic under the policy, and store it. Returns how many events."""
        rules = Admission(Sites(), Redactor(), max_event_age_ms=7 * DAY_MS, policy_of=self.policy.of_site)
        attributor = store and Attributor(store, Tombstones(store, ERASURE_KEY), max_transitions=MAX_TRANSITIONS)
        count = 0
        for batch in traffic.batches():
            excluded = rules.admit(batch, now_ms())
            kept = [event for position, event in enumerate(batch.events) if position not in excluded]
            if attributor:
                await attributor.store([EventBatch(contexts=batch.contexts, events=kept)])
            await self.stub.ImportIdentities(pb.ImportIdentitiesRequest(events=kept))
            count += len(kept)
        return count

    async def decide(self, traffic: LinkTraffic) -> None:
        """Store the contacts, and let people decide some things."""
        stored = [*traffic.contacts()]
        for first in range(0, len(stored), 1_000):
            await self.stub.BatchUpsertContacts(pb.BatchUpsertContactsRequest(contacts=stored[first : first + 1_000]))
        await self.stub.LinkContact(pb.LinkContactRequest(identity_id="user-1", contact_id="e-2", actor="agent"))
        rename = pb.RenameIdentityRequest(from_identity_id="user-2", to_identity_id="user-3", actor="agent")
        await self.stub.RenameIdentity(rename)
        merge = pb.MergeContactsRequest(from_contact_id="p-4", into_contact_id="e-4", actor="agent")
        await self.stub.MergeContacts(merge)

    async def links(self) -> dict[str, Link]:
        """The link of each identity."""
        ids, request = [], pb.ListIdentitiesRequest(page_size=1_000)
        while True:
            page = await self.stub.ListIdentities(request)
            ids += [identity.identity_id for identity in page.identities]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        found: dict[str, Link] = {}
        for first in range(0, len(ids), 50):
            part = ids[first : first + 50]
            requests = [pb.ListContactLinksRequest(identity_id=one, page_size=1) for one in part]
            pages = await asyncio.gather(*map(self.stub.ListContactLinks, requests))
            found |= {
                one: _link(page.links[0]) if page.links else NO_LINK for one, page in zip(part, pages, strict=True)
            }
        return found


def _link(link: contact_pb2.ContactLink) -> Link:
    status = contact_pb2.LinkStatus.Name(link.status).removeprefix("LINK_STATUS_").lower()
    rule = contact_pb2.LinkRule.Name(link.rule).removeprefix("LINK_RULE_").lower()
    return status, rule.replace("unspecified", ""), link.contact_id


@asynccontextmanager
async def running_suite(
    folder: Path, redis_url: str, mongo_url: str, database: str, policy: str
) -> AsyncIterator[Suite]:
    (file := folder / f"{database}.toml").write_text(policy, encoding="utf-8")
    async with (
        running_service(
            "identity",
            folder,
            REDIS_URL=redis_url,
            MONGO_URL=mongo_url,
            MONGO_DATABASE=database,
            IDENTITY_POLICY_FILE=file,
            IDENTITY_MONGO_TIMEOUT_MS=20_000,
            ERASURE_KEY=ERASURE_KEY,
        ) as process,
        process.stub() as stub,
    ):
        yield Suite(stub, process.target, IdentityPolicy.load(file))


@pytest.fixture
async def redis_databases(redis_database_url: str, redis_url: str) -> list[str]:
    """Empty databases of Redis, for three identity services."""
    others = [f"{redis_url}/{REDIS_DATABASES - number}" for number in (2, 3)]
    for url in others:
        async with Redis.from_url(url) as redis:
            await redis.flushdb()
    return [redis_database_url, *others]


def outcomes_of(before: dict[str, Link], after: dict[str, Link]) -> Counter[tuple[str, ...]]:
    """How many identities are decided so before, and so after."""
    pairs = [(before.get(one, NO_LINK), after.get(one, NO_LINK)) for one in before.keys() | after.keys()]
    return Counter((*was[:2], *now[:2]) for was, now in pairs if was != now)


def changes_of(before: dict[str, Link], after: dict[str, Link]) -> dict[str, set[tuple[str, str, str]]]:
    """The identities whose contact changes, with both."""
    found: dict[str, set[tuple[str, str, str]]] = {"made": set(), "undone": set(), "moved": set()}
    for one in before.keys() | after.keys():
        was, now = before.get(one, NO_LINK)[2], after.get(one, NO_LINK)[2]
        if was != now:
            found["moved" if was and now else "made" if now else "undone"].add((one, was, now))
    return found


class Run(NamedTuple):
    """Where suites run: the stores, the folder of the first one's files, and a Redis database for each."""

    store: Store
    mongo_url: str
    database: str
    redis_urls: Sequence[str]
    folder: Path


async def differences(of: Run, policies: Sequence[str], visits: int) -> tuple[list[dict[str, Any]], int]:
    """Assert that the report about each policy is the difference of two suites; return the links, and how many events.

    All suites get the same traffic and the same contacts, and people decide the same.
    """
    start_ms, people = now_ms() - 2 * DAY_MS, max(60, visits // 10)

    def traffic() -> LinkTraffic:
        return LinkTraffic(visits, random.Random(59), start_ms, people)  # noqa: S311 - traffic is no secret

    async with AsyncExitStack() as stack:
        suites = []
        for number, policy in enumerate([FORMER, *policies]):
            database = f"{of.database}_{number}" if number else of.database
            running = running_suite(of.folder, of.redis_urls[number], of.mongo_url, database, policy)
            suites.append(await stack.enter_async_context(running))
        one, *others = suites
        count = await one.arrive(traffic(), of.store)
        for suite in others:
            await suite.arrive(traffic())
        for suite in suites:
            await suite.decide(traffic())
        links = [await reported_links(of, number, one.target) for number in range(1, len(suites))]
        for suite, found in zip(others, links, strict=True):
            # Generic values are announced in the background.
            await eventually(partial(is_difference, one, suite, found), timeout=120, every=2)
        return links, count


async def reported_links(of: Run, number: int, target: str) -> dict[str, Any]:
    """What the command reports of the policy of a suite, run against the first one."""
    settings = environment(of.mongo_url, of.database) | {"IDENTITY_TARGET": target}
    files = {name: of.folder / f"{of.database}_{number}.{name}" for name in ("toml", "json", "html")}
    started = time.monotonic()
    code, output, errors = await run(
        *("simulate", "--policy", files["toml"], "--largest", "1000", "--json", files["json"], "--html", files["html"]),
        env=settings,
    )
    assert code == 0, errors
    print(f"compared in {time.monotonic() - started:.0f} s: {output}")  # noqa: T201 - for whoever runs it
    links: dict[str, Any] = json.loads(files["json"].read_bytes())["links"]
    assert f"Links to contacts: {links['made']['total']:,} made" in output
    page = files["html"].read_text(encoding="utf-8")
    assert f"Links to another contact: {links['moved']['total']:,}" in page
    assert "linked by phone_number to" in page
    return links


async def is_difference(one: Suite, other: Suite, links: dict[str, Any]) -> None:
    before, after = await one.links(), await other.links()
    found = Counter[tuple[str, ...]]()
    for row in links["outcomes"]:
        words = row["before_status"], row["before_rule"], row["after_status"], row["after_rule"]
        found[words] += row["identities"]
    assert found == outcomes_of(before, after)
    for kind, expected in changes_of(before, after).items():
        listed = {
            (row["identity_id"], row["before"]["contact_id"], row["after"]["contact_id"])
            for row in links[kind]["examples"]
        }
        assert (links[kind]["total"], len(listed)) == (len(expected), min(1_000, len(expected)))
        assert listed <= expected
    assert (links["identities"], links["not_compared"]) == (len(before.keys() | after.keys()), 0)


async def test_the_links_of_the_report_are_the_difference_of_two_suites(
    store: Store, mongo_url: str, mongo_database: str, redis_databases: list[str], tmp_path: Path
) -> None:
    of = Run(store, mongo_url, mongo_database, redis_databases, tmp_path)
    (swapped, other), _ = await differences(of, [SWAPPED, OTHER], 120)
    assert swapped["rules_after"] == ["phone_number", "email_address", "name"]
    assert {row["reason"] for row in swapped["outcomes"]} == {"rules"}
    moved = {(one["before"]["rule"], one["after"]["rule"]) for one in swapped["moved"]["examples"]}
    assert moved == {("email_address", "phone_number")}
    assert {row["reason"] for row in other["outcomes"]} == {"rules", "sharing", "evidence"}
    assert all(other[kind]["total"] for kind in ("made", "undone", "moved"))


@pytest.mark.long
@pytest.mark.timeout(6_000)
async def test_the_same_links_of_200_000_events(
    store: Store, mongo_url: str, mongo_database: str, redis_databases: list[str], tmp_path: Path
) -> None:
    of = Run(store, mongo_url, mongo_database, redis_databases, tmp_path)
    _, count = await differences(of, [SWAPPED], 30_000)
    assert count > 200_000


async def test_few_identities_are_compared_and_without_identity_none(
    store: Store, mongo_url: str, mongo_database: str, *, redis_database_url: str, tmp_path: Path
) -> None:
    (file := tmp_path / "tried.toml").write_text(OTHER, encoding="utf-8")
    report_file = tmp_path / "report.json"
    async with running_suite(tmp_path, redis_database_url, mongo_url, mongo_database, FORMER) as suite:
        traffic = LinkTraffic(60, people=30)
        await suite.arrive(traffic, store)
        await suite.decide(traffic)
        settings = environment(mongo_url, mongo_database) | {"IDENTITY_TARGET": suite.target}
        command: list[str | Path] = [
            "simulate",
            "--policy",
            file,
            "--json",
            report_file,
            "--html",
            tmp_path / "report.html",
        ]
        code, output, errors = await run(*command, "--links", "5", "--largest", "1", env=settings)
        assert code == 0, errors
        links = json.loads(report_file.read_bytes())["links"]
        assert links["identities"] - links["not_compared"] == 5
        assert all(len(links[kind]["examples"]) <= 1 for kind in ("made", "undone", "moved"))
        assert f"{links['not_compared']:,} identities are not compared" in output
        whole = await _sides(command, report_file, settings)
        of_sites = await _sides(command, report_file, settings, *SITES)
        assert any(side["unused"] for side in whole)
        assert any(side["candidates"] for side in whole)
        assert not any(side["unused"] or side["candidates"] for side in of_sites), "they depend on other sites"
    code, output, errors = await run(*command, env=settings)
    assert (code, "not compared, because identity does not answer" in output) == (0, True), errors
    assert json.loads(report_file.read_bytes())["links"] is None
    assert "identity did not answer" in (tmp_path / "report.html").read_text(encoding="utf-8")


async def _sides(
    command: Sequence[str | Path], report: Path, settings: dict[str, str], *arguments: str
) -> list[dict[str, Any]]:
    """Both sides of all changes that a report lists."""
    code, _, errors = await run(*command, *arguments, env=settings)
    assert code == 0, errors
    links = json.loads(await asyncio.to_thread(report.read_bytes))["links"]
    changes = [one for kind in ("made", "undone", "moved") for one in links[kind]["examples"]]
    return [one[side] for one in changes for side in ("before", "after")]
