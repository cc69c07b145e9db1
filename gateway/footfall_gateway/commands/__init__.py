"""The commands of `footfall-gateway` besides serving."""

from typing import Final

from footfall_servicekit.command_line import Command

from footfall_gateway.commands import audit_hash, check_dsl, keys

COMMANDS: Final = {
    "keys": Command("create, list, rotate or revoke API keys", keys.run),
    "audit-hash": Command("print the hash that log lines have in place of an id", audit_hash.run),
    "whose": Command("the old name of audit-hash, removed in the next version", audit_hash.run_by_old_name),
    "check-dsl": Command("report the faults of a domain-model.xml", check_dsl.run),
}
