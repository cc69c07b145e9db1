"""Turns settings into parts, and the parts into the running identity service."""

import asyncio
from functools import partial
from typing import Final

from footfall.identity.v1 import identity_service_pb2_grpc as identity_grpc
from footfall_servicekit import command_line
from footfall_servicekit.background import repeat
from footfall_servicekit.errors import RequestError
from footfall_servicekit.partitions import OLDEST, OLDEST_WITH_WAITAOF
from footfall_servicekit.server import Server, run, serve
from footfall_timeline import Walls

from footfall_identity.access import ACCESS
from footfall_identity.consumer import LIVE_GROUP, RECORDS_GROUP, LiveConsumer, LogConsumer
from footfall_identity.erasure import Eraser
from footfall_identity.importing import Importer
from footfall_identity.link_store import LinkStore
from footfall_identity.linking import Linking
from footfall_identity.partitions import Partitions
from footfall_identity.person_store import PersonStore
from footfall_identity.service import IdentityService
from footfall_identity.settings import DAY_MS, MINUTE_MS, IdentitySettings
from footfall_identity.visitor_store import VisitorStore
from footfall_identity.watch import ChangeFeed

SERVICE_NAME = "footfall.identity.v1.IdentityService"

# Entries of the log that are handled together, and how long they are gathered. For the live state that is half of what
# is promised. Records take long, and must be done well within the time after which others take the entries over.
_LIVE_ENTRIES: Final = 256
_LIVE_GATHER_MS: Final = 150
_RECORDS_ENTRIES: Final = 32
_RECORDS_GATHER_MS: Final = 250

_FINISH_EVERY_S: Final = 30.0
_SWEEP_EVERY_S: Final = 600.0


async def identify(settings: IdentitySettings) -> int:
    """Serve until told to stop; return the exit code."""
    secret, region = settings.erasure_secret, settings.phone_region
    stopping = asyncio.Event()
    partitions = Partitions(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms)
    visitors = VisitorStore(
        partitions,
        keep_ms=settings.live_retention_days * DAY_MS,
        idle_ms=settings.visit_idle_minutes * MINUTE_MS,
        changes_kept=settings.changelog_max_entries,
        transitions_kept=settings.max_transitions_per_visit,
        erasure_secret=secret,
        erases_anonymous=settings.erase_anonymous_events,
    )
    persons = PersonStore(partitions, visitors)
    links = LinkStore.open(
        settings.mongo_url, settings.mongo_database, timeout_ms=settings.mongo_timeout_ms, erasure_secret=secret
    )
    linking = Linking(links, region)
    eraser = Eraser(partitions, persons, links, secret=secret, ack_replicas=settings.log_ack_replicas)
    feed = ChangeFeed(visitors, links, partitions.numbers, kept=settings.watch_buffer_messages, stopping=stopping)
    consumer = LogConsumer(
        visitors,
        persons,
        links,
        linking=linking,
        eraser=eraser,
        names=settings.attribute_names,
        phone_region=region,
    )
    walls = Walls.load(settings.sites_file)
    service = IdentityService(
        settings,
        partitions,
        visitors,
        links,
        linking=linking,
        eraser=eraser,
        feed=feed,
        importer=Importer(persons, links, linking, names=settings.attribute_names, phone_region=region),
        walls=walls,
    )
    readers = [
        *partitions.log_readers(
            LIVE_GROUP, LiveConsumer(visitors).handle, entries=_LIVE_ENTRIES, gather_ms=_LIVE_GATHER_MS
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
            partial(partitions.redis.check, OLDEST_WITH_WAITAOF if settings.log_ack_replicas else OLDEST),
            links.prepare,
            eraser.restore,
            partial(repeat, _FINISH_EVERY_S, RequestError, linking.finish),
            feed.run,
            *(partial(repeat, _SWEEP_EVERY_S, RequestError, visitors.remove_expired, n) for n in partitions.numbers),
            *(reader.run for reader in readers),
        ],
        close=[links.close, partitions.redis.aclose],
        stopping=stopping,
    )
    return await serve(server)


def main() -> None:
    """Run identity; the entry point `footfall-identity`."""
    about = "Say who visitors are until SIGTERM or SIGINT."
    settings = command_line.answer("footfall-identity", about, IdentitySettings)
    run(settings, "identity", partial(identify, settings))


if __name__ == "__main__":
    main()
