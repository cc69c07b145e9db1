"""The identity service's process: its parts, made from the settings, and its command line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from footfall.identity.v1 import identity_service_pb2_grpc as identity_grpc
from footfall_eventlog.attention import AttentionRules
from footfall_eventlog.checkpoint_store import CheckpointStore
from footfall_eventlog.checkpoints import Checkpoints
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_eventlog.gaps_command import ABOUT_GAPS, run_gaps
from footfall_eventlog.keys import KeyCallers
from footfall_eventlog.log import LIVE_GROUP, RECORDS_GROUP
from footfall_eventlog.metrics import STREAM_GAPS, STREAM_LAG, STREAM_LOST, STREAM_STORE_WENT_BACK
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.process_records import ProcessRecord
from footfall_eventlog.settings import DAY_MS, MINUTE_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites_following import follow_sites
from footfall_eventlog.store_reports import redis_report
from footfall_servicekit import command_line
from footfall_servicekit.background import repeat
from footfall_servicekit.command_line import Command
from footfall_servicekit.errors import RequestError
from footfall_servicekit.metrics import BACKGROUND_FAILURES, INDEXES
from footfall_servicekit.process import run, serve
from footfall_servicekit.server import Server
from footfall_servicekit.settings import load

from footfall_identity import metrics
from footfall_identity.access import ACCESS, SCOPES
from footfall_identity.change_feed import ChangeFeed
from footfall_identity.contact_directory import ContactDirectory
from footfall_identity.contact_record import RequestMemory
from footfall_identity.contact_writer import ContactWriter
from footfall_identity.erasure import Eraser, check_key
from footfall_identity.history_client import HistoryClient
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.judge import Judge, update_metrics
from footfall_identity.link_store import TRANSIENT_STORE_ERRORS, LinkStore
from footfall_identity.linker import Linker
from footfall_identity.live_lists import LiveLists
from footfall_identity.live_visitors import LiveVisitors
from footfall_identity.log_consumers import LiveStateConsumer, RecordConsumer
from footfall_identity.partitions import Partitions
from footfall_identity.rebuilding import Rebuilder
from footfall_identity.record_writer import RecordWriter
from footfall_identity.relinking import Relinker
from footfall_identity.service import IdentityService
from footfall_identity.settings import IdentitySettings
from footfall_identity.visit_codes import VisitCodes
from footfall_identity.visitor_counts import VisitorCounts
from footfall_identity.visitor_notices import VisitorNotices
from footfall_identity.visitor_store import VisitorStore

SERVICE_NAME = "footfall.identity.v1.IdentityService"

# Entries of the log that are handled together, and how long they are gathered. The live state is promised in 300 ms,
# of which gathering may take half. Records take longer, and their entries must not be taken over meanwhile.
_LIVE_ENTRIES: Final = 256
_LIVE_GATHER_MS: Final = 150
_RECORDS_ENTRIES: Final = 32
_RECORDS_GATHER_MS: Final = 250

_REMEMBER_REDIRECTS_MS: Final = 250
_COMPLETE_EVERY_S: Final = 30.0
_SWEEP_EVERY_S: Final = 60.0


async def identify(settings: IdentitySettings) -> int:
    """Serve until a stop is requested; return the exit code."""
    secret, region = settings.erasure_secret, settings.phone_region
    stopping = asyncio.Event()
    partitions = Partitions(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms)
    visitors = VisitorStore(
        partitions,
        retention_ms=settings.live_retention_days * DAY_MS,
        idle_ms=settings.visit_idle_minutes * MINUTE_MS,
        short_retention_ms=(settings.visit_idle_minutes + settings.anonymous_retention_minutes) * MINUTE_MS,
        changelog_max_entries=settings.changelog_max_entries,
        max_transitions=settings.max_transitions_per_visit,
        max_pages=settings.max_pages_per_visit,
        leave_ms=settings.leave_after_ms,
        erasure_secret=secret,
        erases_anonymous=settings.erase_anonymous_events,
    )
    index = IdentityIndex(partitions, visitors)
    lists = LiveLists(partitions, visitors)
    counts = VisitorCounts(
        partitions,
        visitors,
        max_sites=settings.counted_sites,
        retention_days=settings.minute_retention_days,
        idle_ms=settings.visit_idle_minutes * MINUTE_MS,
    )
    notices = VisitorNotices(
        partitions,
        visitors,
        changelog_max_entries=settings.changelog_max_entries,
        max_visits_per_identity=settings.max_visits_per_contact_change,
    )
    links = LinkStore(
        settings.mongo_url,
        settings.mongo_database,
        timeout_ms=settings.mongo_timeout_ms,
        contact_timeout_ms=settings.contact_timeout_ms,
        max_names=settings.max_names,
        remember_ms=_REMEMBER_REDIRECTS_MS,
        erasure_secret=secret,
        notices=notices,
    )
    directory = ContactDirectory(links)
    codes = VisitCodes(
        partitions,
        visitors,
        life_ms=settings.visit_code_minutes * MINUTE_MS,
        max_codes=settings.max_visit_codes,
        max_wrong_per_minute=settings.max_wrong_codes_per_minute,
        max_wrong_of_all=settings.max_wrong_codes_per_minute_of_all,
    )
    linker = Linker(links, settings.link_policy)
    judge = Judge(links, linker, settings.identity_policy_file)
    relinker = Relinker(links, linker, wait_ms=settings.link_wait_ms, max_wait_ms=settings.max_link_wait_ms)
    contacts = ContactWriter(
        links,
        relinker,
        phone_region=region,
        memory=RequestMemory(settings.request_ids_per_contact, settings.request_id_minutes * MINUTE_MS),
        max_deleted_percent=settings.sync_max_deleted_percent,
    )
    eraser = Eraser(partitions, index, links, linker, secret=secret, ack_replicas=settings.log_ack_replicas)
    feed = ChangeFeed(
        visitors,
        links,
        notices,
        partitions.numbers,
        buffer_messages=settings.watch_buffer_messages,
        stopping=stopping,
    )
    writer = RecordWriter(index, links, linker, phone_region=region)
    consumer = RecordConsumer(visitors, writer, eraser)
    history = HistoryClient(settings.history_target, settings.client_tls)
    checkpoints = Checkpoints(
        partitions.redis,
        RECORDS_GROUP,
        links.checkpoints,
        TRANSIENT_STORE_ERRORS,
        rebuild=Rebuilder(history, visitors, consumer, eraser).rebuild,
    )
    service = IdentityService(
        settings,
        visitors,
        links,
        live=LiveVisitors(visitors, lists),
        counts=counts,
        directory=directory,
        codes=codes,
        linker=linker,
        relinker=relinker,
        eraser=eraser,
        feed=feed,
        writer=writer,
        contacts=contacts,
        history=history,
    )
    live = LiveStateConsumer(visitors, AttentionRules.load(settings.attention_file))
    readers = [
        *partitions.log_readers(LIVE_GROUP, live.handle, entries=_LIVE_ENTRIES, gather_ms=_LIVE_GATHER_MS),
        *partitions.log_readers(RECORDS_GROUP, consumer.handle, entries=_RECORDS_ENTRIES, gather_ms=_RECORDS_GATHER_MS),
    ]
    record = ProcessRecord(
        "identity",
        settings.redis_url,
        counted={
            "lost_entries": STREAM_LOST,
            "went_back": STREAM_STORE_WENT_BACK,
            "background_failures": BACKGROUND_FAILURES,
        },
        numbers={
            "unread_entries": STREAM_LAG,
            "gaps": STREAM_GAPS,
            "rebuilding": metrics.REBUILDING,
            "pending_relinks": metrics.PENDING_RELINKS,
            "missing_indexes": INDEXES.labels("missing"),
        },
    )
    server = Server(
        settings,
        {SERVICE_NAME: partial(identity_grpc.add_IdentityServiceServicer_to_server, service)},
        access=ACCESS,
        scopes=SCOPES,
        find_caller=KeyCallers(settings.grpc_keys_file).find if settings.grpc_keys_file else None,
        frequent=["ResolveEvents"],
        ready=partitions.redis.is_ready,
        background=[
            partial(partitions.redis.check, needs_waitaof=bool(settings.log_ack_replicas)),
            partial(_prepare, links, directory, linker, judge),
            judge.follow,
            partial(follow_sites, settings.sites_file, (SiteGroups.load, service.site_groups.take)),
            eraser.restore,
            relinker.run,
            feed.run,
            counts.run,
            *(partial(repeat, _SWEEP_EVERY_S, RequestError, _sweep, notices, visitors, n) for n in partitions.numbers),
            *(partial(repeat, _SWEEP_EVERY_S, RequestError, lists.repair, n) for n in partitions.numbers),
            *(reader.run for reader in readers),
            checkpoints.run,
            record.run,
        ],
        close=[history.close, links.close, record.close, partitions.redis.aclose],
        stopping=stopping,
    )
    return await serve(server)


async def _sweep(notices: VisitorNotices, visitors: VisitorStore, number: int) -> None:
    """Remove what is expired in a partition. Before, record the ends of visits: they may have been missed meanwhile."""
    await notices.note_due(number, are_contacts_known=False)
    await visitors.remove_expired(number)


async def _prepare(links: LinkStore, directory: ContactDirectory, linker: Linker, judge: Judge) -> None:
    """Make the indexes. Then and until the end complete contacts, because an earlier version may still write some.

    The rules of links are applied as often: other processes may have had others until they were stopped.
    """
    await links.prepare()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(repeat(_COMPLETE_EVERY_S, RequestError, directory.complete))
        tasks.create_task(judge.run())
        tasks.create_task(repeat(_COMPLETE_EVERY_S, RequestError, update_metrics, links, linker))


@asynccontextmanager
async def _open_links(settings: IdentitySettings) -> AsyncIterator[LinkStore]:
    links = LinkStore(
        settings.mongo_url, settings.mongo_database, timeout_ms=settings.mongo_timeout_ms, erasure_secret=""
    )
    try:
        yield links
    finally:
        await links.close()


@asynccontextmanager
async def _open_checkpoints() -> AsyncIterator[CheckpointStore]:
    async with _open_links(load(IdentitySettings)) as links:
        yield links.checkpoints


async def check_stores(settings: IdentitySettings) -> AsyncIterator[str]:
    """What `footfall-identity check --stores` finds."""
    redis = PartitionedRedis(settings.redis_url, settings.partitions, timeout_ms=settings.redis_timeout_ms)
    try:
        yield await redis_report(redis, needs_waitaof=bool(settings.log_ack_replicas))
    finally:
        await redis.aclose()
    async with _open_links(settings) as links:
        yield await links.report()
        check_key(ErasureKeys(settings.erasure_secret), await links.tombstones())


def main() -> None:
    """Run the service or one of its commands; the entry point `footfall-identity`."""
    about = "Say who visitors are until SIGTERM or SIGINT."
    commands = {
        "gaps": Command(ABOUT_GAPS, partial(run_gaps, "identity", _open_checkpoints, TRANSIENT_STORE_ERRORS)),
    }
    settings = command_line.parse("footfall-identity", about, IdentitySettings, check_stores, commands)
    run(settings, "identity", partial(identify, settings))


if __name__ == "__main__":
    main()
