"""Turns settings into a running gateway, or into one command on its keys."""

import sys

from footfall_servicekit.server import run
from footfall_servicekit.settings import load

from footfall_gateway import keys_command
from footfall_gateway.serving import serve
from footfall_gateway.settings import GatewaySettings


def main() -> None:
    """Serve until SIGTERM or SIGINT, or carry out `keys ...`; then exit."""
    settings = load(GatewaySettings)
    if sys.argv[1:2] == ["keys"]:
        sys.exit(keys_command.run(sys.argv[2:], settings.keys_file))
    run(settings, "gateway", lambda: serve(settings))


if __name__ == "__main__":
    main()
