"""Turns settings into a running gateway, or into one command about its files."""

from typing import Final

from footfall_servicekit import command_line
from footfall_servicekit.command_line import Command
from footfall_servicekit.server import run

from footfall_gateway.auth import audit
from footfall_gateway.commands import check_dsl
from footfall_gateway.commands import keys as keys_command
from footfall_gateway.server import serve
from footfall_gateway.settings import GatewaySettings

_COMMANDS: Final = {
    "keys": Command("make, list, rotate or revoke API keys", keys_command.run),
    "whose": Command("print what log lines say of an id instead of it", audit.run),
    "check-dsl": Command("look for faults in a domain-model.xml", check_dsl.run),
}


def main() -> None:
    """Run the gateway, or carry out one of its commands; the entry point `footfall-gateway`."""
    about = "Serve browsers and API clients until SIGTERM or SIGINT."
    settings = command_line.answer("footfall-gateway", about, GatewaySettings, _COMMANDS)
    run(settings, "gateway", lambda: serve(settings))


if __name__ == "__main__":
    main()
