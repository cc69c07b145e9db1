"""Contacts in tests: written without a service, and imported by `footfall-contacts import`."""

import asyncio
import sys
from pathlib import Path
from typing import NamedTuple

from footfall_identity.contact_record import ContactChange, ContactRecord, with_match_keys
from footfall_identity.contact_writer import ContactWriter


class Contacts:
    """Writes contacts one by one; numbers without country code are German."""

    def __init__(self, writer: ContactWriter) -> None:
        self.writer = writer

    async def upsert(self, record: ContactRecord) -> ContactRecord:
        """Create or replace a contact."""
        written = await self.writer.write_one(
            ContactChange(contact_id=record.contact_id, given=with_match_keys(record, "DE"))
        )
        assert written
        return written

    async def delete(self, contact_id: str) -> ContactRecord | None:
        """Delete a contact; return the mark that is left of it, None if there was none."""
        return await self.writer.write_one(ContactChange(contact_id=contact_id, given=None, creates=False))


class Ended(NamedTuple):
    """How the command ended, with its standard output and its standard error."""

    code: int
    said: str
    complained: str


async def imported(target: str, *arguments: str, given: bytes = b"", **settings: object) -> Ended:
    """Run the command beside the identity at a target; `given` is its standard input."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "footfall-contacts"),
        "import",
        *arguments,
        env={"IDENTITY_TARGET": target, "LC_ALL": "C.UTF-8"} | {name: str(value) for name, value in settings.items()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(given)
    assert process.returncode is not None
    return Ended(process.returncode, said.decode(), complained.decode())
