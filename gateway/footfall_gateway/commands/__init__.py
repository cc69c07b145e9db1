"""What `footfall-gateway` does besides serving."""

from typing import Final

from footfall_servicekit.command_line import Command

from footfall_gateway.commands import audit_hash, check_dsl, keys

COMMANDS: Final = {
    "keys": Command("make, list, rotate or revoke API keys", keys.run),
    "whose": Command("print what log lines say of an id instead of it", audit_hash.run),
    "check-dsl": Command("look for faults in a domain-model.xml", check_dsl.run),
}
