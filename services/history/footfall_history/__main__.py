"""The history service's process: its parts, made from the settings, and its command line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from footfall.history.v1 import history_service_pb2_grpc as history_grpc
from footfall_eventlog.checkpoint_store import CheckpointStore
from footfall_eventlog.checkpoints import Checkpoints
from footfall_eventlog.gaps_command import ABOUT_GAPS, run_gaps
from footfall_eventlog.keys import KeyCallers
from footfall_eventlog.log import HISTORY_GROUP
from footfall_eventlog.metrics import STREAM_GAPS, STREAM_LOST, STREAM_STORE_WENT_BACK
from footfall_eventlog.process_records import ProcessRecord
from footfall_eventlog.settings import DAY_MS, MINUTE_MS
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites_following import follow_sites
from footfall_eventlog.store_reports import redis_report
from footfall_servicekit import command_line
from footfall_servicekit.background import NotReadyError, repeat
from footfall_servicekit.command_line import Command
from footfall_servicekit.metrics import BACKGROUND_FAILURES, INDEXES
from footfall_servicekit.process import run, serve
from footfall_servicekit.server import Server
from footfall_servicekit.settings import load
from footfall_timeline import LaterVersionError

from footfall_history import metrics
from footfall_history.access import ACCESS, SCOPES
from footfall_history.consumer_lag import ConsumerLag
from footfall_history.dead_letters import DeadLetterQueue, run_dead_letters
from footfall_history.erasure import Eraser, run_verify_erasure
from footfall_history.event_log import TRANSIENT_LOG_ERRORS, EventLog
from footfall_history.event_streams import EventStreams
from footfall_history.identity_client import IdentityClient
from footfall_history.indexes_command import run_indexes
from footfall_history.ingest import Attributor, EffortLimit, InteractionWriter, LogConsumer, SlowVisits
from footfall_history.policies import PolicyTrials
from footfall_history.queries import (
    Attributions,
    CustomerContexts,
    Exporter,
    InteractionReader,
    LiveVisits,
    Reader,
)
from footfall_history.retention import sweep
from footfall_history.scorecards import ScorecardCounter, ScorecardLimits
from footfall_history.service import HistoryService
from footfall_history.settings import HistorySettings
from footfall_history.storage import TRANSIENT_STORE_ERRORS, Need, Preview, Store, Tombstones, index_names

SERVICE_NAME = "footfall.history.v1.HistoryService"

_COUNT_EVERY_S: Final = 5.0
_TRIM_EVERY_S: Final = 30.0
_SWEEP_EVERY_S: Final = 600.0
_STORE_ANSWERS_S: Final = 1.5  # less than a check of readiness may take, so that the reason names the store


async def keep_history(settings: HistorySettings) -> int:
    """Serve until a signal asks for the end; return the exit code."""
    stopping, site_groups = asyncio.Event(), SiteGroups.load(settings.sites_file)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    log_kept_ms = settings.log_retention_minutes * MINUTE_MS
    relay_kept_ms = settings.relay_hold_minutes * MINUTE_MS
    log = EventLog(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    identity_client = IdentityClient(
        settings.identity_target,
        settings.identity_timeout_ms,
        settings.client_tls,
        settings.max_identities_per_contact,
    )
    tombstones = Tombstones(store, settings.erasure_secret, erases_anonymous=settings.erase_anonymous_events)
    dead_letters = DeadLetterQueue(
        log,
        retention_ms=settings.event_retention_days * DAY_MS,
        max_per_partition=settings.max_dead_letters,
        max_per_visit=settings.max_dead_letters_per_visit,
    )
    reader = Reader(store, settings.visit_idle_minutes * MINUTE_MS)
    kept = settings.max_transitions_per_visit
    preview = Preview(tombstones, max_transitions=kept)
    eraser = Eraser(store, tombstones, dead_letters, preview)
    slow = SlowVisits(log, max_bytes=settings.slow_visit_bytes // settings.partitions)
    checkpoints = Checkpoints(
        log.redis, HISTORY_GROUP, store.checkpoints, TRANSIENT_STORE_ERRORS, is_settled=slow.is_empty
    )
    consumer = LogConsumer(
        dead_letters,
        Attributor(store, tombstones, max_transitions=kept),
        eraser,
        slow,
        InteractionWriter(store, tombstones),
        effort_limit=EffortLimit(settings.slow_visit_transitions, settings.slow_visit_reattributions),
        attempts=settings.max_write_attempts,
        check_store=store.journal,
        read_again_until=checkpoints.read_again_until,
    )
    consumer_lag = ConsumerLag(log, settings.lag_warning_s)
    event_streams = EventStreams(
        log, preview, stopping, max_streams=settings.max_event_streams, site_groups=site_groups
    )
    interactions = InteractionReader(
        store,
        tombstones,
        identity_client,
        max_visits=settings.max_interaction_visits,
        phone_region=settings.phone_region,
    )
    exporter = Exporter(store, reader, tombstones, dead_letters, preview, interactions=interactions)
    live_visits = LiveVisits(store, settings.partitions, settings.visit_idle_minutes * MINUTE_MS)
    contexts = CustomerContexts(
        store,
        reader,
        identity_client,
        interactions,
        site_groups,
        timeout_ms=settings.context_timeout_ms,
        idle_ms=settings.visit_idle_minutes * MINUTE_MS,
        max_interactions=settings.context_interactions,
    )
    service = HistoryService(
        store,
        reader,
        identity_client,
        event_streams,
        eraser,
        dead_letters,
        exporter,
        live_visits,
        site_groups,
        contexts,
        interactions,
        PolicyTrials(),
        Attributions(store, tombstones, dead_letters),
        settings.max_event_age_days * DAY_MS,
    )

    async def is_ready() -> bool:
        if not await log.is_ready():
            raise NotReadyError("Redis does not answer")
        try:
            async with asyncio.timeout(_STORE_ANSWERS_S):
                return await store.is_ready()
        except (*TRANSIENT_STORE_ERRORS, TimeoutError):
            raise NotReadyError("MongoDB does not answer") from None

    async def consume() -> None:
        await tombstones.check()  # before events of an erased person could be merged
        await store.indexes.wait_for(index_names(Need.LOG))
        async with asyncio.TaskGroup() as readers:
            for reader in log.readers(consumer.handle, settings.load_gather_ms):
                readers.create_task(reader.run())
            for number in range(log.partitions):
                readers.create_task(slow.run(number, consumer.handle_slow))

    async def remove_expired() -> None:
        await store.indexes.wait_for(index_names(Need.LOG, Need.READY))
        retention_ms = settings.event_retention_days * DAY_MS
        await repeat(_SWEEP_EVERY_S, TRANSIENT_STORE_ERRORS, sweep, store, retention_ms)

    scorecards = ScorecardCounter(
        store,
        ScorecardLimits(
            max_event_age_days=settings.max_event_age_days,
            visit_days=settings.event_retention_days,
            scorecard_days=settings.scorecard_retention_days,
            max_sites=settings.scorecard_max_sites,
            sample_size=settings.scorecard_sample_size,
        ),
        identity_client.count_links,
    )

    async def count_visits() -> None:
        await store.indexes.wait_for(index_names(Need.READY))
        errors = (*TRANSIENT_STORE_ERRORS, LaterVersionError)
        await repeat(settings.scorecard_interval_s, errors, scorecards.run)

    record = ProcessRecord(
        "history",
        settings.redis_url,
        counted={
            "history_events": metrics.EVENTS,
            "conflicts": metrics.CONFLICTING_DUPLICATES,
            "lost_entries": STREAM_LOST,
            "went_back": STREAM_STORE_WENT_BACK,
            "background_failures": BACKGROUND_FAILURES,
        },
        numbers={
            "lag_seconds": metrics.LAG_SECONDS,
            "dead_letters": metrics.DEAD_LETTERS,
            "oldest_dead_letter": metrics.OLDEST_DEAD_LETTER,
            "slow_visits": metrics.SLOW_VISITS,
            "gaps": STREAM_GAPS,
            "missing_indexes": INDEXES.labels("missing"),
        },
    )
    server = Server(
        settings,
        {SERVICE_NAME: partial(history_grpc.add_HistoryServiceServicer_to_server, service)},
        access=ACCESS,
        scopes=SCOPES,
        find_caller=KeyCallers(settings.grpc_keys_file).find if settings.grpc_keys_file else None,
        ready=is_ready,
        background=[
            log.check,
            partial(follow_sites, settings.sites_file, (SiteGroups.load, site_groups.take)),
            store.prepare,
            consume,
            checkpoints.run,
            *(
                partial(repeat, _TRIM_EVERY_S, TRANSIENT_LOG_ERRORS, log.trim, n, log_kept_ms, relay_kept_ms)
                for n in range(log.partitions)
            ),
            remove_expired,
            count_visits,
            record.run,
            *(
                partial(repeat, _COUNT_EVERY_S, TRANSIENT_LOG_ERRORS, update)
                for update in (dead_letters.update_metrics, slow.update_metrics, consumer_lag.update)
            ),
        ],
        close=[identity_client.close, record.close, log.close, store.close],
        stopping=stopping,
    )
    return await serve(server)


@asynccontextmanager
async def _open_checkpoints() -> AsyncIterator[CheckpointStore]:
    settings = load(HistorySettings)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    try:
        yield store.checkpoints
    finally:
        await store.close()


async def check_stores(settings: HistorySettings) -> AsyncIterator[str]:
    """What `footfall-history check --stores` finds."""
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    log = EventLog(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    try:
        yield await redis_report(log.redis)
        yield await store.report()
        await Tombstones(store, settings.erasure_secret).check()
    finally:
        await log.close()
        await store.close()


def main() -> None:
    """Run the service or one of its commands; the entry point `footfall-history`."""
    commands = {
        "gaps": Command(ABOUT_GAPS, partial(run_gaps, "history", _open_checkpoints, TRANSIENT_STORE_ERRORS)),
        "dead-letters": Command("list, show, repair, replay or discard what could not be stored", run_dead_letters),
        "indexes": Command("list the indexes in MongoDB, or make those that are missing", run_indexes),
        "verify-erasure": Command("search the stores for what remains of an identity", run_verify_erasure),
    }
    about = "Keep what visitors do, and answer about it, until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-history", about, HistorySettings, check_stores, commands)
    run(settings, "history", partial(keep_history, settings))


if __name__ == "__main__":
    main()
