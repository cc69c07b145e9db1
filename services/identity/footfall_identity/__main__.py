"""The identity service's process: its parts, made from the settings, and its command line."""

import asyncio
from functools import partial
from typing import Final

from footfall.identity.v1 import identity_service_pb2_grpc as identity_grpc
from footfall_eventlog.log import LIVE_GROUP, RECORDS_GROUP
from footfall_eventlog.settings import DAY_MS, MINUTE_MS
from footfall_servicekit import command_line
from footfall_servicekit.background import repeat
from footfall_servicekit.errors import RequestError
from footfall_servicekit.process import run, serve
from footfall_servicekit.server import Server

from footfall_identity.access import ACCESS
from footfall_identity.change_feed import ChangeFeed
from footfall_identity.erasure import Eraser
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker
from footfall_identity.log_consumers import LiveStateConsumer, RecordConsumer
from footfall_identity.partitions import Partitions
from footfall_identity.record_writer import RecordWriter
from footfall_identity.service import IdentityService
from footfall_identity.settings import IdentitySettings
from footfall_identity.visitor_store import VisitorStore

SERVICE_NAME = "footfall.identity.v1.IdentityService"

# Entries of the log that are handled together, and how long they are gathered. The live state is promised in 300 ms,
# of which gathering may take half. Records take longer, and their entries must not be taken over meanwhile.
_LIVE_ENTRIES: Final = 256
_LIVE_GATHER_MS: Final = 150
_RECORDS_ENTRIES: Final = 32
_RECORDS_GATHER_MS: Final = 250

_FINISH_EVERY_S: Final = 30.0
_SWEEP_EVERY_S: Final = 600.0


async def identify(settings: IdentitySettings) -> int:
    """Serve until a stop is requested; return the exit code."""
    secret, region = settings.erasure_secret, settings.phone_region
    stopping = asyncio.Event()
    partitions = Partitions(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms)
    visitors = VisitorStore(
        partitions,
        retention_ms=settings.live_retention_days * DAY_MS,
        idle_ms=settings.visit_idle_minutes * MINUTE_MS,
        changelog_max_entries=settings.changelog_max_entries,
        max_transitions=settings.max_transitions_per_visit,
        erasure_secret=secret,
        erases_anonymous=settings.erase_anonymous_events,
    )
    index = IdentityIndex(partitions, visitors)
    links = LinkStore(
        settings.mongo_url, settings.mongo_database, timeout_ms=settings.mongo_timeout_ms, erasure_secret=secret
    )
    linker = Linker(links, region)
    eraser = Eraser(partitions, index, links, secret=secret, ack_replicas=settings.log_ack_replicas)
    feed = ChangeFeed(
        visitors, links, partitions.numbers, buffer_messages=settings.watch_buffer_messages, stopping=stopping
    )
    writer = RecordWriter(index, links, linker, names=settings.attribute_names, phone_region=region)
    consumer = RecordConsumer(visitors, writer, eraser)
    service = IdentityService(
        settings,
        partitions,
        visitors,
        links,
        linker=linker,
        eraser=eraser,
        feed=feed,
        writer=writer,
    )
    readers = [
        *partitions.log_readers(
            LIVE_GROUP, LiveStateConsumer(visitors).handle, entries=_LIVE_ENTRIES, gather_ms=_LIVE_GATHER_MS
        ),
        *partitions.log_readers(RECORDS_GROUP, consumer.handle, entries=_RECORDS_ENTRIES, gather_ms=_RECORDS_GATHER_MS),
    ]
    server = Server(
        settings,
        {SERVICE_NAME: partial(identity_grpc.add_IdentityServiceServicer_to_server, service)},
        access=ACCESS,
        frequent=["ResolveEvents"],
        ready=partitions.redis.is_ready,
        background=[
            partial(partitions.redis.check, needs_waitaof=bool(settings.log_ack_replicas)),
            links.prepare,
            eraser.restore,
            partial(repeat, _FINISH_EVERY_S, RequestError, linker.finish),
            feed.run,
            *(partial(repeat, _SWEEP_EVERY_S, RequestError, visitors.remove_expired, n) for n in partitions.numbers),
            *(reader.run for reader in readers),
        ],
        close=[links.close, partitions.redis.aclose],
        stopping=stopping,
    )
    return await serve(server)


def main() -> None:
    """Run the service; the entry point `footfall-identity`."""
    about = "Say who visitors are until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-identity", about, IdentitySettings)
    run(settings, "identity", partial(identify, settings))


if __name__ == "__main__":
    main()
