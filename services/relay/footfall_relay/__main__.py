"""The relay's process: its parts, made from the settings, and its command line."""

import os
import socket
from collections.abc import AsyncIterator
from functools import partial

from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.process_records import ProcessRecord
from footfall_eventlog.store_reports import redis_report
from footfall_servicekit import command_line
from footfall_servicekit.background import NotReadyError
from footfall_servicekit.metrics import BACKGROUND_FAILURES
from footfall_servicekit.process import run, serve
from footfall_servicekit.reloading import ReloadingFile
from footfall_servicekit.server import Server

from footfall_relay import metrics
from footfall_relay.commands import COMMANDS, open_positions, open_stamper
from footfall_relay.delivery import Delivery
from footfall_relay.outlets_file import Outlet, read_outlets
from footfall_relay.relay import Relay
from footfall_relay.settings import RelaySettings


async def relay_events(settings: RelaySettings) -> int:
    """Relay until a signal asks for the end; return the exit code."""
    positions = open_positions(settings, f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}")
    redis, stamper = positions.redis, open_stamper(settings)
    file = ReloadingFile(partial(read_outlets, settings.file, allow_http=settings.allow_http), [settings.file])

    def deliver(outlet: Outlet, number: int) -> Delivery:
        return Delivery(outlet, number, positions, stamper, missing_wait_s=settings.missing_wait_s)

    relay = Relay(file, positions, deliver)
    record = ProcessRecord(
        "relay",
        settings.redis_url,
        counted={
            "relayed": metrics.DELIVERED,
            "outlet_lost_entries": metrics.LOST,
            "background_failures": BACKGROUND_FAILURES,
        },
        numbers={"lag_seconds": metrics.LAG_SECONDS, "dead_letters": metrics.DEAD_LETTERS, "paused": metrics.PAUSED},
    )

    async def is_ready() -> bool:
        if not await redis.is_ready():
            raise NotReadyError("Redis does not answer")
        return True

    async def relay_checked() -> None:
        await redis.check()
        await relay.run()

    server = Server(
        settings,
        {},
        ready=is_ready,
        background=[relay_checked, record.run],
        close=[relay.release, stamper.close, record.close, redis.aclose],
    )
    return await serve(server)


async def check_stores(settings: RelaySettings) -> AsyncIterator[str]:
    """What `footfall-relay check --stores` finds."""
    redis = PartitionedRedis(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms)
    try:
        yield await redis_report(redis)
    finally:
        await redis.aclose()


def main() -> None:
    """Run the service or one of its commands; the entry point `footfall-relay`."""
    about = "Send what visitors do to webhooks, Kafka and Parquet files, until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-relay", about, RelaySettings, check_stores, COMMANDS)
    run(settings, "relay", partial(relay_events, settings))


if __name__ == "__main__":
    main()
