"""Turns settings into parts, and the parts into the running collector."""

import sys
from functools import partial

from footfall.collector.v1 import collector_service_pb2_grpc as collector_grpc
from footfall_servicekit.channel import open_channel
from footfall_servicekit.server import Server, run, serve
from footfall_servicekit.settings import load

from footfall_collector.access import ACCESS
from footfall_collector.admission import DAY_MS, Admission
from footfall_collector.event_log import EventLog
from footfall_collector.pipeline import Pipeline
from footfall_collector.redact import Redactor
from footfall_collector.resolver import Resolver
from footfall_collector.service import CollectorService
from footfall_collector.settings import CollectorSettings
from footfall_collector.sites import Sites, SitesFileError

SERVICE_NAME = "footfall.collector.v1.CollectorService"


async def collect(settings: CollectorSettings, sites: Sites) -> int:
    """Serve until told to stop; return the exit code."""
    log = EventLog(
        settings.redis_url,
        settings.partitions,
        bound_bytes=settings.log_bound_bytes,
        site_share=settings.log_site_share,
        timeout_ms=settings.log_timeout_ms,
        max_appends=settings.max_concurrent_rpcs,
        ack_replicas=settings.log_ack_replicas,
        is_volatile_allowed=settings.allow_volatile_log,
    )
    channel = open_channel(settings.identity_target, settings.client_tls)
    admission = Admission(
        sites,
        Redactor(settings.redact_keys.split(","), emails=settings.redact_emails),
        max_event_age_ms=settings.max_event_age_days * DAY_MS,
        token_leeway_s=settings.token_leeway_s,
    )
    pipeline = Pipeline(admission, log, Resolver(channel), settings.partitions)
    service = CollectorService(pipeline, settings.identity_timeout_ms / 1000)
    server = Server(
        settings,
        {SERVICE_NAME: partial(collector_grpc.add_CollectorServiceServicer_to_server, service)},
        access=ACCESS,
        frequent=["Collect"],
        ready=log.is_ready,
        background=[log.check],
        close=[channel.close, log.close],
    )
    return await serve(server)


def main() -> None:
    """Run the collector; the entry point `footfall-collector`."""
    settings = load(CollectorSettings)
    try:
        sites = Sites.load(settings.sites_file)
    except SitesFileError as error:
        sys.stderr.write(f"SITES_FILE is wrong:\n{error}\n")
        sys.exit(2)
    run(settings, "collector", partial(collect, settings, sites))


if __name__ == "__main__":
    main()
