"""Measures how long searches for contacts take in a small and in a large directory, and their ratios.

`make bench-contacts` measures and writes docs/dev/performance.md; `python -m bench.contacts --quick` only prints.
"""

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Final, NamedTuple
from uuid import uuid4

import grpc
import msgspec
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_identity.contact_record import ContactRecord, with_match_keys, with_search_keys
from pymongo import MongoClient

from bench.page import measured, table, write
from bench.suite import fresh_suite
from tests.tools.suite import Suite

PAGE_SIZE: Final = 10
ANSWER_SECONDS: Final = 30.0
FILL_SECONDS: Final = 1_200.0
"""A slow machine stores fewer contacts in this time, and the report says how many."""
INDEX_SECONDS: Final = 60.0
CONTACTS_PER_WRITE: Final = 2_000
NAMESAKES: Final = 8
"""Contacts of each last name, in both directories."""
SYLLABLES: Final = ("ba", "ço", "di", "fe", "gu", "ha", "ki", "lø", "mo", "nü", "pa", "ra", "se", "ta", "vi", "zo")
FIRST_NAMES: Final = ("Anna", "Özgür", "Mária", "John", "Søren", "Léa", "Kim", "Paweł")


@dataclass(frozen=True)
class Extent:
    """How many contacts the two directories have, and how often each search is made in each."""

    few: int
    many: int
    samples: int


FULL: Final = Extent(10_000, 1_000_000, 500)
QUICK: Final = Extent(1_000, 5_000, 50)


class Search(NamedTuple):
    """A search for a contact that exists, by the fields of the request."""

    name: str
    fields: tuple[str, ...]


SEARCHES: Final = (
    Search("e-mail address", ("email",)),
    Search("telephone number", ("phone",)),
    Search("last name", ("last",)),
    Search("the first 8 letters of the last name, and the first name", ("first", "beginning")),
    Search("last name and e-mail address", ("last", "email")),
)


def contact(number: int) -> ContactRecord:
    """Return the contact of this number, as identity stores it. Each last name has `NAMESAKES` contacts."""
    digits, rest = [], number // NAMESAKES
    for _ in range(6):
        rest, digit = divmod(rest, len(SYLLABLES))
        digits.append(SYLLABLES[digit])
    given = ContactRecord(
        contact_id=f"c-{number:07}",
        email_addresses=(f"person.{number}@shop.example",),
        phone_numbers=(f"+49 30 {number:07}",),
        first_name=FIRST_NAMES[number % len(FIRST_NAMES)],
        last_name="".join(digits).title(),
        create_ms=1,
        update_ms=1,
    )
    return with_search_keys(with_match_keys(given, None))


def request(search: Search, number: int) -> pb.ListContactsRequest:
    """Return a search that finds the contact of this number."""
    of = contact(number)
    texts = {"last": of.last_name, "first": of.first_name, "beginning": of.last_name[:8].upper()}
    return pb.ListContactsRequest(
        name=" ".join(texts[name] for name in search.fields if name in texts),
        email=of.email_addresses[0] if "email" in search.fields else "",
        phone=of.phone_numbers[0] if "phone" in search.fields else "",
        page_size=PAGE_SIZE,
    )


@dataclass
class Directory:
    """An identity service with so many contacts, and what its answers took, in milliseconds."""

    contacts: int
    stub: Any
    fill_s: float
    took_ms: dict[Search, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ask(self, search: Search, chance: random.Random) -> None:
        """Search for a contact and note the time. Raises RuntimeError if it is not found."""
        number = chance.randrange(self.contacts)
        asked = request(search, number)
        started = time.perf_counter()
        response = self.stub.ListContacts(asked, timeout=ANSWER_SECONDS, wait_for_ready=True)
        self.took_ms[search].append((time.perf_counter() - started) * 1000)
        if contact(number).contact_id not in {one.contact_id for one in response.contacts}:
            raise RuntimeError(f"contact {number} is not found by {search.name}")

    def percentiles(self, search: Search) -> tuple[float, float]:
        """p50 and p99."""
        cuts = quantiles(self.took_ms[search], n=100, method="inclusive")
        return cuts[49], cuts[98]


@contextmanager
def filled(contacts: int) -> Iterator[Directory]:
    """A suite of its own whose identity service has so many contacts."""
    with fresh_suite() as suite, grpc.insecure_channel(suite.targets["identity"]) as channel:
        stub = IdentityServiceStub(channel)
        _wait_for_indexes(stub)
        started = time.monotonic()
        contacts = _fill(suite, contacts)
        yield Directory(contacts, stub, time.monotonic() - started)


def _wait_for_indexes(stub: Any) -> None:
    """Wait until identity has made its indexes. SecantusDB cannot make them of a million contacts in its memory."""
    deadline = time.monotonic() + INDEX_SECONDS
    while True:
        try:
            stub.ListContacts(request(SEARCHES[0], 0), timeout=ANSWER_SECONDS, wait_for_ready=True)
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _fill(suite: Suite, contacts: int) -> int:
    """Store the contacts. Returns how many have been stored in time."""
    give_up_at = time.monotonic() + FILL_SECONDS
    client: MongoClient[Any] = MongoClient(suite.mongo_url)
    with client:
        collection = client["footfall"]["contacts"]
        for start in range(0, contacts, CONTACTS_PER_WRITE):
            if time.monotonic() > give_up_at:
                return start
            records = map(contact, range(start, min(start + CONTACTS_PER_WRITE, contacts)))
            documents = [msgspec.to_builtins(msgspec.structs.replace(one, rev=uuid4().hex)) for one in records]
            collection.insert_many(documents, ordered=False)
    return contacts


def measure(extent: Extent) -> str:
    """Make every search in both directories in turn; return the section of the report."""
    started = time.monotonic()
    with filled(extent.few) as few, filled(extent.many) as many:
        chance = random.Random(4)  # noqa: S311 - which contacts are searched for is no secret
        for number in range(extent.samples):
            for search in SEARCHES:
                for directory in (few, many) if number % 2 else (many, few):
                    directory.ask(search, chance)
    return text(extent, few, many, time.monotonic() - started)


def text(extent: Extent, few: Directory, many: Directory, seconds: float) -> str:
    """The measured section, in Markdown."""
    heads = [f"{name} with {few.contacts:,}|with {many.contacts:,}|**ratio**" for name in ("p50", "p99")]
    return "\n".join(
        [
            measured(seconds),
            f"Milliseconds until a gRPC client of identity has the contacts; {extent.samples} answers a figure. Each",
            f"last name has {NAMESAKES} contacts in both directories. Goal: ratios below 2.",
            "",
            *table("|".join(("contacts by", *heads)), [_row(search, few, many) for search in SEARCHES]),
            "",
            f"To store {many.contacts:,} contacts took {many.fill_s:.0f} s.",
        ]
    )


def _row(search: Search, few: Directory, many: Directory) -> list[str]:
    figures = []
    for one, other in zip(few.percentiles(search), many.percentiles(search), strict=True):
        figures += [f"{one:.1f}", f"{other:.1f}", f"**{other / one:.2f}**"]
    return [search.name, *figures]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.contacts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few contacts; prints and leaves the page as it is")
    is_quick = parser.parse_args().quick
    section = measure(QUICK if is_quick else FULL)
    print(section)
    if not is_quick:
        write(section, "make bench-contacts")


if __name__ == "__main__":
    main()
