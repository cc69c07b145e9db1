"""A relay beside a running suite, with outlets that tests add."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from footfall_timeline import order_key

from tests.tools.eventually import eventually
from tests.tools.process import ServiceProcess, running_service
from tests.tools.receiver import SECRET, Receiver
from tests.tools.suite import Suite
from tests.tools.visits import Event, event, now_ms

GIVEN = ("REDIS_URL", "HISTORY_TARGET", "IDENTITY_TARGET", "ERASURE_KEY")


class Outlets:
    """The outlets file of a relay, and its commands."""

    def __init__(self, suite: Suite, file: Path) -> None:
        self._suite = suite
        self.file = file
        self.log: Callable[[], str] = str
        """What the relay has logged."""
        self._tables: dict[str, str] = {}
        file.write_text("")

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the relay."""
        known = {name: self._suite.environment[name] for name in GIVEN if name in self._suite.environment}
        return known | {
            "RELAY_FILE": str(self.file),
            "RELAY_METRICS_PORT": "0",
            "PARTITIONS": self._suite.environment.get("PARTITIONS", "1"),
        }

    def put(self, kind: str, name: str, **fields: Any) -> None:
        """Add or replace an outlet."""
        lines = [f"[[{kind}]]", f'name = "{name}"']
        for field, value in fields.items():
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            lines.append(f"{field} = {shown}")
        self._tables[name] = "\n".join(lines)
        self._write()

    def webhook(self, name: str, receiver: Receiver, **fields: Any) -> None:
        """Add or replace a webhook with short pauses."""
        quick = {"timeout_s": 0.5, "first_pause_s": 0.05, "last_pause_s": 0.2}
        self.put("webhook", name, url=receiver.url, secret=SECRET, **{**quick, **fields})

    def remove(self, name: str) -> None:
        """Remove an outlet."""
        del self._tables[name]
        self._write()

    def _write(self) -> None:
        next_file = self.file.with_suffix(".next")
        next_file.write_text("\n".join(self._tables.values()))
        next_file.replace(self.file)

    async def until_paused(self, name: str) -> None:
        """Wait until the relay no longer sends to an outlet."""
        [port] = re.findall(r'"metrics_port": (\d+)', self.log())

        async def is_paused() -> bool:
            async with httpx.AsyncClient() as http:
                shown = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
            return f'footfall_relay_paused{{outlet="{name}"}} 1.0' in shown

        await eventually(is_paused, every=0.2)

    async def command(self, *arguments: str, code: int = 0) -> str:
        """What `footfall-relay` with these arguments prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "footfall_relay", *arguments),
            env={**self._suite.environment, **self.settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == code, output.decode()
        return output.decode()


@asynccontextmanager
async def running_relay(suite: Suite, folder: Path, **more: object) -> AsyncIterator[tuple[Outlets, ServiceProcess]]:
    """A relay without outlets yet. When it ends, the log of the suite keeps nothing for it."""
    outlets = Outlets(suite, folder / "outlets.toml")
    async with running_service("relay", folder, **(outlets.settings | more)) as process:
        outlets.log = process.output
        yield outlets, process
        outlets.file.write_text("")
        if process.process.poll() is None:
            await asyncio.sleep(2.5)


@asynccontextmanager
async def running_receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()


async def send(http: httpx.AsyncClient, site: str, events: list[Event]) -> None:
    """Send a beacon, which must be stored."""
    answer = await http.post("/beacon", json={"site": site, "events": events})
    assert answer.status_code == 204, answer.text


def pages(visit_id: str, count: int, start_ms: int = 0) -> list[Event]:
    """Events of a visit, one a second, the last one now."""
    start_ms = start_ms or now_ms() - 1_000 * count
    return [event("PageEntered", visit_id, start_ms + 1_000 * number) for number in range(count)]


async def until_received(receiver: Receiver, wanted: list[Event], within_s: float = 60.0) -> None:
    """Wait until all events have arrived."""
    ids = {_dashed(one["eventID"]) for one in wanted}

    def have_arrived() -> bool:
        missing = ids - {message["data"].get("eventId") for message in receiver.messages}
        assert not missing, f"{len(missing)} of {len(ids)} are missing"
        return True

    await eventually(have_arrived, timeout=within_s, every=0.1)


def assert_ordered(messages: list[dict[str, Any]], order: Callable[[dict[str, Any]], str] | None = None) -> None:
    """Check that each event came first in the order in which it happened, and sequences grow but for repetitions."""
    key = order or (lambda message: order_key(message["data"]["eventTime"], message["data"]["eventId"]))
    first: dict[str, list[str]] = {}
    seen: set[str] = set()
    for message in messages:
        if message["type"] == "footfall.event" and not message["revised"] and message["id"] not in seen:
            seen.add(message["id"])
            first.setdefault(message["subject"], []).append(key(message))
    assert first
    for keys in first.values():
        assert keys == sorted(keys)


def _dashed(text: str) -> str:
    digits = text.lower()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
