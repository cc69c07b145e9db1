"""Turns settings into parts, and the parts into the running identity service."""

from functools import partial

from footfall.identity.v1 import identity_service_pb2_grpc as identity_grpc
from footfall_servicekit.server import run, serve
from footfall_servicekit.settings import load

from footfall_identity.consumer import GROUP, LogConsumer
from footfall_identity.link_store import LinkStore
from footfall_identity.service import IdentityService
from footfall_identity.settings import DAY_MS, MINUTE_MS, IdentitySettings
from footfall_identity.visitor_store import VisitorStore

SERVICE_NAME = "footfall.identity.v1.IdentityService"


async def identify(settings: IdentitySettings) -> int:
    """Serve until told to stop; return the exit code."""
    visitors = VisitorStore.open(
        settings.redis_url,
        settings.partitions,
        timeout_ms=settings.redis_timeout_ms,
        keep_ms=settings.retention_days * DAY_MS,
        idle_ms=settings.idle_minutes * MINUTE_MS,
        changes_kept=settings.changes_kept,
        erasure_secret=settings.erasure_secret,
    )
    links = LinkStore.open(settings.mongo_url, settings.mongo_database, timeout_ms=settings.mongo_timeout_ms)
    consumer = LogConsumer(visitors, links)
    readers = visitors.log_readers(GROUP, consumer.handle)
    service = IdentityService(visitors, links, copy_name=settings.copy_name)  # type: ignore[abstract]
    return await serve(
        settings,
        {SERVICE_NAME: partial(identity_grpc.add_IdentityServiceServicer_to_server, service)},
        ready=visitors.is_ready,
        background=[visitors.check, links.prepare, *(reader.run for reader in readers)],
        close=[links.close, visitors.close],
    )


def main() -> None:
    """Run identity; the entry point `footfall-identity`."""
    settings = load(IdentitySettings)
    run(settings, "identity", partial(identify, settings))


if __name__ == "__main__":
    main()
