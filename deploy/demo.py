"""`make demo`: sends visitors of three invented websites, and their contacts, to the suite of `make run`.

Takes GATEWAY_PORT and DATA_DIR, if `make run` got them. Sends to this machine only, and ends by itself.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from deploy.embedded import DEFAULT_PORTS, ROOT, data_folder, gateway_url, is_ready
from deploy.run import read_credentials

MAX_PER_MINUTE: Final = 600
MAX_MINUTES: Final = 120
MAX_VISITORS: Final = 2_000
"""The most at a time: further ones wait until one has left."""

Event = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A page of a website, and the business event that may happen on it: name, data, and share of the visitors."""

    path: str
    title: str
    event: str = ""
    data: Event = field(default_factory=dict)
    share: float = 0


@dataclass(frozen=True)
class Website:
    """A website: its name in Footfall, its host, and its pages in the order in which they are usually seen."""

    name: str
    host: str
    pages: tuple[Page, ...]


_INVENTED: Final = json.loads((ROOT / "gateway/console/demo/visitors.json").read_text(encoding="utf-8"))
"""Also of the visitors that a button of the demo shop sends (visitors.js)."""
WEBSITES: Final = tuple(
    Website(site["name"], site["host"], tuple(Page(**page) for page in site["pages"])) for site in _INVENTED["websites"]
)
PEOPLE: Final = tuple(
    {
        "userID": f"customer-{number:03}",
        "firstName": first,
        "lastName": last,
        "email": f"customer-{number:03}@mail.example",
        "phone": f"+1202555{number:04}",
    }
    for number, (first, last) in enumerate(
        (first, last) for last in _INVENTED["lastNames"] for first in _INVENTED["firstNames"]
    )
)


_BROWSERS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 "
    "Mobile/15E148 Safari/604.1",
)
_DEVICES: Final = uuid.UUID("6ff3a5f2-46c9-4d0c-b7a1-3c9f0f0c9f10")


class Visitor:
    """One browser on one website. `steps` makes what its page sends, each with the pause before it in seconds."""

    def __init__(self, seed: float) -> None:
        """Choose a website, and perhaps a person, by the seed."""
        self._chance = chance = random.Random(seed)  # noqa: S311 - no secrets
        self._site = chance.choice(WEBSITES)
        self._person = chance.choice(PEOPLE) if chance.random() < 0.6 else None
        self._visit_id = self._new_id()
        self.browser = chance.choice(_BROWSERS)
        # Each person has one device.
        self._device_id = str(uuid.uuid5(_DEVICES, self._person["userID"])) if self._person else self._new_id()

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def steps(self) -> Iterator[tuple[float, list[Event]]]:
        """The beacons of a visit."""
        chance, pages = self._chance, self._site.pages
        left: list[Event] = []
        for number, page in enumerate(pages[: chance.randint(1, len(pages))]):
            page_id = self._new_id()
            entered = self._event("PageEntered", page, page_id, {"title": page.title})
            if number == 0:
                yield 0, [self._event("VisitStarted", page, page_id), entered]
            else:
                yield chance.expovariate(1 / 12), [*left, entered]
            if number == 0 and self._person and chance.random() < 0.5:
                yield 1, [self._event("UserInfo", page, page_id, self._person)]
            elif number == 1 and self._person:
                yield chance.uniform(3, 15), [self._event("SignIn", page, page_id, self._person)]
            if page.event and chance.random() < page.share:
                yield chance.uniform(2, 20), [self._event(page.event, page, page_id, page.data)]
            left = [self._event("PageExited", page, page_id)]
        yield chance.uniform(5, 120), left

    def _event(self, name: str, page: Page, page_id: str, data: Event | None = None) -> Event:
        event: Event = {
            "eventName": name,
            "eventID": self._new_id(),
            "visitID": self._visit_id,
            "globalVisitID": self._device_id,
            "pageID": page_id,
            "url": f"https://{self._site.host}{page.path}",
            "site": self._site.name,
        }
        return event if data is None else event | {"data": data}


def with_times(events: list[Event]) -> list[Event]:
    """Events that happen now, one after the other."""
    now_ms = time.time_ns() // 1_000_000
    return [event | {"timestamp": now_ms + number} for number, event in enumerate(events)]


async def visit(http: httpx.AsyncClient, visitor: Visitor, room: asyncio.Semaphore) -> None:
    """Send a visit. A beacon that is not accepted is sent again, three times at most."""
    async with room:
        for pause_s, events in visitor.steps():
            await asyncio.sleep(pause_s)
            beacon = with_times(events)
            for wait_s in (1, 5, 0):
                if (await http.post("/beacon", json=beacon, headers={"User-Agent": visitor.browser})).is_success:
                    break
                await asyncio.sleep(wait_s)


def is_contact(number: int) -> bool:
    """Whether the person with this number is known to the contact center: four of five are."""
    return number % 5 < 4


async def put_contacts(http: httpx.AsyncClient, user: str, password: str) -> None:
    """Write the people who are contacts into the directory."""
    contacts = [
        {
            "contactId": f"C-{number:04}",
            "firstName": person["firstName"],
            "lastName": person["lastName"],
            "emailAddresses": [person["email"]],
            "phoneNumbers": [person["phone"]],
        }
        for number, person in enumerate(PEOPLE)
        if is_contact(number)
    ]
    answer = await http.post("/api/v1/contacts:batch", json={"contacts": contacts}, auth=(user, password))
    answer.raise_for_status()


async def main() -> int:
    """Run what the command line asks for. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--per-minute", type=int, default=30, help=f"visitors that arrive, at most {MAX_PER_MINUTE}")
    parser.add_argument("--minutes", type=float, default=10, help=f"how long they arrive, at most {MAX_MINUTES}")
    parser.add_argument("--seed", type=int, help="of the random visitors")
    options = parser.parse_args()
    if not (0 < options.per_minute <= MAX_PER_MINUTE and 0 < options.minutes <= MAX_MINUTES):
        parser.error(f"--per-minute must be 1 to {MAX_PER_MINUTE}, --minutes more than 0 and at most {MAX_MINUTES}")
    gateway = gateway_url({"GATEWAY_PORT": str(DEFAULT_PORTS["GATEWAY_PORT"])} | os.environ)
    if not is_ready(gateway):
        print(f"No suite is ready at {gateway}. Is `make run` running?", file=sys.stderr)
        return 1
    credentials, _ = read_credentials(data_folder())
    chance, room = random.Random(options.seed), asyncio.Semaphore(MAX_VISITORS)  # noqa: S311 - no secrets
    try:
        async with httpx.AsyncClient(base_url=gateway, verify=False, timeout=10) as http:  # noqa: S501 - this machine
            await put_contacts(http, *credentials)
            print(f"Visitors arrive at {gateway} for {options.minutes:g} minutes. Ctrl-C ends it.", flush=True)
            ends = time.monotonic() + options.minutes * 60
            async with asyncio.TaskGroup() as visitors:
                while time.monotonic() < ends:
                    visitors.create_task(visit(http, Visitor(chance.random()), room))
                    await asyncio.sleep(chance.expovariate(options.per_minute / 60))
                print("Nobody arrives any more. Waiting until all have left.", flush=True)
    except (OSError, httpx.HTTPError, ExceptionGroup) as error:
        failure = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        print(f"The suite at {gateway} does not answer as expected: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(0)
