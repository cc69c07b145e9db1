"""The gateway's command line: serve, or carry out one command about its files."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis
from footfall_servicekit import command_line
from footfall_servicekit.background import NotReadyError
from footfall_servicekit.process import run

from footfall_gateway.commands import COMMANDS
from footfall_gateway.server import serve_gateway
from footfall_gateway.settings import GatewaySettings

_TIMEOUT_MS: Final = 2_000


async def check_stores(settings: GatewaySettings) -> AsyncIterator[str]:
    """What `footfall-gateway check --stores` finds: Redis, for sessions of the console and shared rate limits."""
    redis = PartitionedRedis(settings.redis_url, 1, timeout_ms=_TIMEOUT_MS)
    try:
        await redis.made_with()
        yield "Redis answers."
    except TRANSIENT_ERRORS:
        raise NotReadyError("REDIS_URL: Redis does not answer") from None
    finally:
        await redis.aclose()


def main() -> None:
    """Run the gateway, or carry out one of its commands; the entry point `footfall-gateway`."""
    about = "Serve browsers and API clients until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-gateway", about, GatewaySettings, check_stores, COMMANDS)
    run(settings, "gateway", partial(serve_gateway, settings))


if __name__ == "__main__":
    main()
