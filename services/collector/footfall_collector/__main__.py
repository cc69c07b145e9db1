"""The collector's process: its parts, made from the settings, and its command line."""

from collections.abc import AsyncIterator
from functools import partial

from footfall.collector.v1 import collector_service_pb2_grpc as collector_grpc
from footfall_eventlog.keys import KeyCallers
from footfall_eventlog.process_records import ProcessRecord
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites_following import follow_sites
from footfall_servicekit import command_line
from footfall_servicekit.channel import open_channel
from footfall_servicekit.metrics import BACKGROUND_FAILURES
from footfall_servicekit.process import run, serve
from footfall_servicekit.server import Server

from footfall_collector import metrics
from footfall_collector.access import ACCESS, SCOPES
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.categories import CategoriesFile
from footfall_collector.event_log import EventLog
from footfall_collector.interactions import InteractionRecorder, InteractionRules
from footfall_collector.pipeline import Pipeline
from footfall_collector.policy_file import PolicyFile
from footfall_collector.redact import Redactor
from footfall_collector.service import CollectorService
from footfall_collector.service_clients import IdentityClient, VisitLookup
from footfall_collector.settings import CollectorSettings
from footfall_collector.sign_in_token import TokenRules
from footfall_collector.sites import Sites

SERVICE_NAME = "footfall.collector.v1.CollectorService"


async def collect(settings: CollectorSettings) -> int:
    """Serve until a stop is requested; return the exit code."""
    log = _open_log(settings)
    channel = open_channel(settings.identity_target, settings.client_tls)
    history = open_channel(settings.history_target, settings.client_tls)
    sites, site_groups = Sites.load(settings.sites_file), SiteGroups.load(settings.sites_file)
    redactor = Redactor(settings.redact_keys.split(","), emails=settings.redact_emails)
    categories = CategoriesFile(settings.categories_file)
    user_id_keys = [key.strip() for key in settings.user_id_keys.split(",") if key.strip()]
    policy = PolicyFile(settings.identity_policy_file, user_id_keys)
    # With mutual TLS only gateways may call Collect (access.py).
    is_gateway_known = settings.grpc_tls_client_ca_file is not None
    admission = Admission(
        sites,
        redactor,
        max_event_age_ms=settings.max_event_age_days * DAY_MS,
        token_rules=TokenRules(
            settings.token_leeway_s, settings.token_max_lifetime_s, settings.max_sign_in_before_token_s
        ),
        received_tolerance_ms=None if is_gateway_known else int(settings.received_time_tolerance_s * 1000),
        site_groups=site_groups,
        category_of=categories.of,
        policy_of=policy.of_site,
        staff_rules=policy.staff,
    )
    pipeline = Pipeline(admission, log, IdentityClient(channel), settings.partitions)
    interactions = InteractionRecorder(
        log,
        VisitLookup(history, channel, site_groups, settings.visit_lookup_timeout_ms / 1000),
        redactor,
        site_groups,
        InteractionRules(
            settings.max_interaction_note_length,
            settings.max_interaction_data_bytes,
            settings.max_interaction_clock_ahead_s,
            settings.max_interactions_per_second,
            settings.phone_region,
        ),
        partitions=settings.partitions,
    )
    service = CollectorService(pipeline, interactions, settings.identity_timeout_ms / 1000)
    record = ProcessRecord(
        "collector",
        settings.redis_url,
        counted={"background_failures": BACKGROUND_FAILURES},
        numbers={
            "log_bytes": metrics.LOG_BYTES,
            "log_bound_bytes": metrics.LOG_BOUND_BYTES,
            "appends_fail_since": metrics.APPENDS_FAIL_SINCE,
        },
    )
    server = Server(
        settings,
        {SERVICE_NAME: partial(collector_grpc.add_CollectorServiceServicer_to_server, service)},
        access=ACCESS,
        scopes=SCOPES,
        find_caller=KeyCallers(settings.grpc_keys_file).find if settings.grpc_keys_file else None,
        frequent=["Collect"],
        ready=log.is_ready,
        background=[
            log.check,
            categories.follow,
            policy.follow,
            record.run,
            partial(follow_sites, settings.sites_file, (SiteGroups.load, site_groups.take), (Sites.load, sites.take)),
        ],
        close=[channel.close, history.close, record.close, log.close],
    )
    return await serve(server)


def _open_log(settings: CollectorSettings) -> EventLog:
    return EventLog(
        settings.redis_url,
        settings.partitions,
        max_bytes=settings.log_max_bytes,
        site_share=settings.log_max_site_share,
        timeout_ms=settings.redis_timeout_ms,
        max_concurrent_appends=settings.max_concurrent_rpcs,
        ack_replicas=settings.log_ack_replicas,
        allows_non_durable=settings.allow_non_durable_redis,
    )


async def check_stores(settings: CollectorSettings) -> AsyncIterator[str]:
    """What `footfall-collector check --stores` finds."""
    log = _open_log(settings)
    try:
        yield await log.report()
    finally:
        await log.close()


def main() -> None:
    """Run the service; the entry point `footfall-collector`."""
    about = "Take events into the log until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-collector", about, CollectorSettings, check_stores)
    run(settings, "collector", partial(collect, settings))


if __name__ == "__main__":
    main()
