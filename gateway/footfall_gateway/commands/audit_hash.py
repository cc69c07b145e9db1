"""`footfall-gateway audit-hash`: the hashes that log lines have in place of ids."""

import argparse
import sys

import msgspec
from footfall_servicekit.settings import load

from footfall_gateway.auth import Audit
from footfall_gateway.settings import GatewaySettings


def run(arguments: list[str]) -> int:
    """Carry out `footfall-gateway audit-hash`, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="footfall-gateway audit-hash",
        description="Print the hash of an id as in the `subject_hashes` of log lines, under each key of "
        "GATEWAY_AUDIT_KEY. Without an id: the hashes of all ids in an identity's export, which is read from standard "
        "input.",
    )
    kinds = ["identity", "contact", "visit", "session", "page", "event"]
    parser.add_argument("kind", nargs="?", choices=kinds, help="kind of the id")
    parser.add_argument("id", nargs="?", help="the id as in the path of the API")
    options = parser.parse_args(arguments)
    if options.kind and not options.id:
        parser.error(f"{options.kind}: must be given with an id")
    audits = [Audit(key) for key in load(GatewaySettings).audit_secrets]
    if not audits:
        sys.stderr.write("GATEWAY_AUDIT_KEY is not set: set it to the key of the gateways that wrote the log.\n")
        return 2
    if options.kind:
        found = {audit.hash(f"{options.kind}Id", options.id or "") for audit in audits}
    else:
        exported = map(msgspec.json.decode, sys.stdin.buffer)
        found = {one for line in exported for audit in audits for one in audit.hashes(line)}
    sys.stdout.writelines(f"{one}\n" for one in sorted(found))
    return 0


def run_by_old_name(arguments: list[str]) -> int:
    """Carry out `footfall-gateway whose`, the earlier name of this command."""
    sys.stderr.write("`footfall-gateway whose` is now `footfall-gateway audit-hash`; use the new name.\n")
    return run(arguments)
