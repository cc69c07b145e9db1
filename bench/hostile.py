"""Measures how long beacons of others take while one address sends the costliest bodies that are known.

`make bench-hostile` takes three minutes and prints. Beside the quiet time it is compared with as many bytes of harmless
events, which two cores also feel: the rest is due to content. The sender's limit
(RATE_LIMIT_BYTES_PER_MINUTE_PER_ADDRESS) is in force, as by default; a second round is without limits, so that the
parsers stand alone.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx

from bench.machine import description
from bench.suite import fresh_suite
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

MIB: Final = 1024 * 1024
HOSTILE_BYTES_A_SECOND: Final = 4 * MIB
EVENTS_A_SECOND: Final = 200
MEASURED_S: Final = 15
DRAINED_S: Final = 5
CONNECTIONS: Final = 16
_UNLIMITED: Final = {
    f"RATE_LIMIT_{counted}_PER_MINUTE_PER_{sender}": "0"
    for counted in ("EVENTS", "BYTES")
    for sender in ("ADDRESS", "SITE")
}


def hostile_bodies() -> list[bytes]:
    """About 1 MiB each: what a decoder, a redactor and a timeline like least."""
    visit = str(uuid.uuid4())
    digits = "4111111111111111," * 3_500
    cards = [event("Form", visit, now_ms(), data={"text": digits}) for _ in range(16)]
    names = [event("SignIn", visit, now_ms() + n, "\U0001f408" * 200 + str(n)) for n in range(800)]
    return [
        b'[{"data":{"text":"' + rb"\\" * (MIB // 2 - 100) + rb'\ud800"}}]',
        b"[" + b"5," * (MIB // 2 - 10) + b"5]",
        json.dumps(cards).encode()[:MIB],
        json.dumps(names, ensure_ascii=False).encode()[:MIB],
    ]


def harmless_bodies() -> list[bytes]:
    """About 1 MiB: what a page may say, if at length."""
    text = {"text": "some words of a visitor, " * 2_500}
    pages = [event("Form", str(uuid.uuid4()), now_ms(), data=text) for _ in range(16)]
    return [json.dumps(pages).encode()]


def send_bodies(url: str, address: str, bodies: list[bytes], seconds: float) -> None:
    """Send such bodies from one address, so many bytes a second; in a process of its own."""
    with httpx.Client(base_url=url, timeout=10, headers={"X-Forwarded-For": address}) as http:
        begun, sent = time.monotonic(), 0
        for body in itertools.cycle(bodies):
            if time.monotonic() - begun > seconds:
                return
            http.post("/beacon", content=body, headers={"Content-Type": "application/json"})
            sent += len(body)
            time.sleep(max(0.0, begun + sent / HOSTILE_BYTES_A_SECOND - time.monotonic()))


@contextmanager
def beside(url: str, address: str, bodies: list[bytes]) -> Iterator[None]:
    """While somebody sends such bodies."""
    arguments = (url, address, bodies, MEASURED_S + 10)
    process = multiprocessing.get_context("spawn").Process(target=send_bodies, args=arguments)
    process.start()
    time.sleep(3)  # until it has begun
    try:
        yield
    finally:
        process.kill()
        process.join()
        time.sleep(DRAINED_S)


async def latencies(url: str) -> list[float]:
    """How long each beacon of one event took, of visitors from everywhere, in milliseconds."""
    took: list[float] = []
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http, asyncio.TaskGroup() as beacons:

        async def send(number: int) -> None:
            begun = time.perf_counter()
            sent = event("PageEntered", str(uuid.uuid4()), now_ms())
            address = {"X-Forwarded-For": f"203.0.113.{number % 250}"}
            answer = await http.post("/beacon", json=[sent], headers=address)
            answer.raise_for_status()
            took.append((time.perf_counter() - begun) * 1000)

        for number in range(MEASURED_S * EVENTS_A_SECOND):
            beacons.create_task(send(number))
            await asyncio.sleep(1 / EVENTS_A_SECOND)
    return took


def p99(suite: Suite) -> float:
    """Of the beacons of others, in milliseconds."""
    return statistics.quantiles(asyncio.run(latencies(suite.url)), n=100)[98]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.parse_args()
    print(description())
    print(f"{EVENTS_A_SECOND} events/s of others beside {HOSTILE_BYTES_A_SECOND // MIB} MiB/s of one address")
    rounds: dict[str, dict[str, str]] = {"limits by default": {}, "no limits": _UNLIMITED}
    for name, settings in rounds.items():
        with fresh_suite(GATEWAY_TRUSTED_PROXIES="127.0.0.1", **settings) as suite:
            p99(suite)
            quiet = p99(suite)
            with beside(suite.url, "198.51.100.8", harmless_bodies()):
                beside_harmless = p99(suite)
            with beside(suite.url, "198.51.100.7", hostile_bodies()):
                attacked = p99(suite)
        times = f"{quiet:.1f} ms quiet, {beside_harmless:.1f} ms beside harmless bodies, {attacked:.1f} ms attacked"
        print(f"{name}: p99 {times}, {attacked / quiet:.2f} of quiet")


if __name__ == "__main__":
    main()
