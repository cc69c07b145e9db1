"""Turns settings into a running gateway, or into one command about its files."""

import sys

from footfall_servicekit.server import run
from footfall_servicekit.settings import load

from footfall_gateway import audit, dsl, keys_command
from footfall_gateway.serving import serve
from footfall_gateway.settings import GatewaySettings


def main() -> None:
    """Serve until SIGTERM or SIGINT, or carry out `keys ...`, `whose ...` or `check-dsl ...`; then exit."""
    match sys.argv[1:]:
        case ["keys", *arguments]:
            sys.exit(keys_command.run(arguments, load(GatewaySettings).keys_file))
        case ["whose", *arguments]:
            sys.exit(audit.run(arguments, load(GatewaySettings).audit_secret))
        case ["check-dsl", *arguments]:
            sys.exit(dsl.run(arguments))
    settings = load(GatewaySettings)
    run(settings, "gateway", lambda: serve(settings))


if __name__ == "__main__":
    main()
