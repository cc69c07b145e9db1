"""The gateway's command line: serve, or carry out one command about its files."""

from functools import partial

from footfall_servicekit import command_line
from footfall_servicekit.process import run

from footfall_gateway.commands import COMMANDS
from footfall_gateway.server import serve_gateway
from footfall_gateway.settings import GatewaySettings


def main() -> None:
    """Run the gateway, or carry out one of its commands; the entry point `footfall-gateway`."""
    about = "Serve browsers and API clients until SIGTERM or SIGINT."
    settings = command_line.parse("footfall-gateway", about, GatewaySettings, COMMANDS)
    run(settings, "gateway", partial(serve_gateway, settings))


if __name__ == "__main__":
    main()
