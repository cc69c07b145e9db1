"""Judges all identities again when the limits of sharing are others than before, or an earlier version had none.

What that version has not derived from the other fields of a record is then written too.

Also counts for the metrics what is shared too much.
"""

import asyncio
import time
from typing import Final

import structlog

from footfall_identity import metrics
from footfall_identity.generic_values import SharingLimits
from footfall_identity.identity_record import IdentityRecord, with_current_link, with_derived_fields
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker

_PER_STEP: Final = 100
_MOST_COUNTED: Final = 1_000

_log = structlog.get_logger()


async def apply_limits(links: LinkStore, linker: Linker, limits: SharingLimits) -> None:
    """Judge all identities by these limits, unless they have been. Several processes may do so together.

    Raises RequestError (UNAVAILABLE) while MongoDB is unavailable; then nothing is noted, and all are judged again.
    """
    former = await links.sharing_limits()
    if former == limits:
        return
    count = 0
    async for records in links.all_identities(_PER_STEP):
        began = time.monotonic()
        await _judge(links, linker, records, former, limits)
        count += len(records)
        await asyncio.sleep(time.monotonic() - began)  # half of the time is left to calls and to the event log
    await links.put_sharing_limits(limits)
    if count:
        _log.info("all identities are judged by the limits of sharing", identities=count)


async def _judge(
    links: LinkStore,
    linker: Linker,
    records: list[IdentityRecord],
    former: SharingLimits | None,
    limits: SharingLimits,
) -> None:
    renewed = [(record, _renewed(record)) for record in records]
    outdated = [new.identity_id for old, new in renewed if (new.is_due, new.doubt) != (old.is_due, old.doubt)]
    await links.change(dict.fromkeys(outdated, _renewed))
    await linker.generic_values.count(key for record in records for key in record.keys)
    crossing = [
        record.identity_id
        for record in records
        if former and record.is_shared(former.max_devices_per_day) != record.is_shared(limits.max_devices_per_day)
    ]
    await linker.relink({*outdated, *crossing})


def _renewed(record: IdentityRecord) -> IdentityRecord:
    return with_current_link(with_derived_fields(record))


async def update_metrics(links: LinkStore, limits: SharingLimits) -> None:
    """Count what is shared too much. Raises RequestError (UNAVAILABLE) while MongoDB is unavailable."""
    metrics.GENERIC_VALUES.set(await links.generic_values.count(_MOST_COUNTED))
    metrics.SHARED_IDENTITIES.set(await links.count_shared(limits.max_devices_per_day, _MOST_COUNTED))
