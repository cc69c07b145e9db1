"""`footfall-gateway whose`: what log lines say of an id instead of it."""

import argparse
import sys

import msgspec
from footfall_servicekit.settings import load

from footfall_gateway.auth import Audit
from footfall_gateway.settings import GatewaySettings


def run(arguments: list[str]) -> int:
    """Carry out `footfall-gateway whose`; the exit code."""
    parser = argparse.ArgumentParser(
        prog="footfall-gateway whose",
        description="Print what log lines say in `whose` for an id; without one, for every id in an export on stdin.",
    )
    kinds = ["identity", "contact", "visit", "session", "page", "event"]
    parser.add_argument("kind", nargs="?", choices=kinds)
    parser.add_argument("id", nargs="?")
    options = parser.parse_args(arguments)
    if options.kind and not options.id:
        parser.error(f"{options.kind}: must be given with an id")
    key = load(GatewaySettings).audit_secret
    if not key:
        sys.stderr.write("Set GATEWAY_AUDIT_KEY to the key of the gateways that wrote the log.\n")
        return 2
    audit = Audit(key)
    if options.kind:
        found = {audit.hash(f"{options.kind}Id", options.id or "")}
    else:
        found = {one for line in sys.stdin.buffer for one in audit.hashes(msgspec.json.decode(line))}
    sys.stdout.writelines(f"{one}\n" for one in sorted(found))
    return 0
