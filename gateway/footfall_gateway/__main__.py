"""Turns settings into a running gateway."""

from footfall_servicekit.server import run
from footfall_servicekit.settings import load

from footfall_gateway.serving import serve
from footfall_gateway.settings import GatewaySettings


def main() -> None:
    """Serve until SIGTERM or SIGINT, then exit."""
    settings = load(GatewaySettings)
    run(settings, "gateway", lambda: serve(settings))


if __name__ == "__main__":
    main()
