"""Follows what the identity policy says about links, and judges all identities again when its rules are others.

Rules are others when the file or a setting has changed, or when an earlier version had none. What that version has not
derived from the other fields of a record is then written too. Also counts for the metrics what is shared too much.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
from footfall_eventlog.identity_policy import IdentityPolicy, LinkPolicy, LinkRules
from footfall_servicekit.background import attempt
from footfall_servicekit.errors import RequestError
from footfall_servicekit.reloading import ReloadingFile

from footfall_identity import metrics
from footfall_identity.identity_record import IdentityRecord, with_current_link, with_derived_fields
from footfall_identity.link_store import LinkStore
from footfall_identity.linker import Linker

_CHECK_EVERY_S: Final = 30.0
_PER_STEP: Final = 100
_OF_EARLIER_VERSIONS: Final = LinkRules(max_identities_per_value=0)
"""They had this order, and did not judge by what is shared."""
_MOST_COUNTED: Final = 1_000

_log = structlog.get_logger()


class Judge:
    """Gives the linker the policy in force, and judges all identities again by other rules. One for each process.

    A mark in the store says by which rules all have been judged. A process removes it when it takes others into use:
    until then it has linked by the former ones what other processes may have judged already.
    """

    def __init__(self, links: LinkStore, linker: Linker, file: Path | None = None) -> None:
        """`file`: IDENTITY_POLICY_FILE, in addition to the linker's policy. Raises IdentityPolicyError."""
        self._links = links
        self._linker = linker
        self._has_changed = asyncio.Event()
        otherwise = linker.policy
        self._file = ReloadingFile(lambda: IdentityPolicy.load(file).links(otherwise), [file])
        self._must_forget = False
        linker.policy = self._file.latest

    async def follow(self) -> None:
        """Take a changed file into use until cancelled. Returns immediately if there is none."""
        await self._file.follow(self._take)

    async def _take(self, policy: LinkPolicy) -> bool:
        self._must_forget |= policy.rules != self._linker.policy.rules
        self._linker.policy = policy
        if self._must_forget:
            await attempt(RequestError, self._forget)
        return not self._must_forget

    async def _forget(self) -> None:
        await self._links.forget_link_rules()
        self._must_forget = False
        self._has_changed.set()

    async def run(self) -> None:
        """Judge all identities when the rules change, and look whether they have been, until cancelled."""
        while True:
            self._has_changed.clear()
            await attempt(RequestError, self.apply)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_changed.wait(), _CHECK_EVERY_S)

    async def apply(self) -> None:
        """Judge all identities by the rules in force, unless they have been. Several processes may do so together.

        Raises RequestError (UNAVAILABLE) while MongoDB is unavailable; then nothing is noted, and all are judged again.
        """
        is_judged = False
        while not is_judged:
            rules = self._linker.policy.rules
            former, rev = await self._links.link_rules()
            if former is None and rev is None:
                former = _OF_EARLIER_VERSIONS
            is_judged = former == rules or (
                await self._judge_all(former, rules) and await self._links.put_link_rules(rules, rev)
            )

    async def _judge_all(self, former: LinkRules | None, rules: LinkRules) -> bool:
        """Judge all; `former` are the rules before, None: any. Return False if the rules have changed meanwhile."""
        count = 0
        async for records in self._links.all_identities(_PER_STEP):
            if self._linker.policy.rules != rules:
                return False
            began = time.monotonic()
            await self._judge(records, former, rules)
            count += len(records)
            await asyncio.sleep(time.monotonic() - began)  # half of the time is left to calls and to the event log
        if count:
            _log.info("all identities are judged by the rules of links", identities=count)
        return True

    async def _judge(self, records: Sequence[IdentityRecord], former: LinkRules | None, rules: LinkRules) -> None:
        renewed = [(record, _renewed(record)) for record in records]
        due = [new.identity_id for old, new in renewed if new.is_due != old.is_due]
        others = [new.identity_id for old, new in renewed if new.doubt != old.doubt]
        await self._links.change(dict.fromkeys([*due, *others], _renewed))
        await self._linker.generic_values.count(key for record in records for key in record.keys)
        affected = [record.identity_id for record in records if _is_affected(record, former, rules)]
        await self._linker.relink({*due, *affected})


def _renewed(record: IdentityRecord) -> IdentityRecord:
    return with_current_link(with_derived_fields(record))


def _is_affected(record: IdentityRecord, former: LinkRules | None, rules: LinkRules) -> bool:
    """Return whether other rules may link an identity otherwise, beside by what is generic."""
    if former is None or former.order != rules.order:
        return bool(record.keys)
    return record.is_shared(former.max_devices_per_day) != record.is_shared(rules.max_devices_per_day)


async def update_metrics(links: LinkStore, linker: Linker) -> None:
    """Count what is shared too much. Raises RequestError (UNAVAILABLE) while MongoDB is unavailable."""
    max_devices = linker.policy.rules.max_devices_per_day
    metrics.GENERIC_VALUES.set(await links.generic_values.count(_MOST_COUNTED))
    metrics.SHARED_IDENTITIES.set(await links.count_shared(max_devices, _MOST_COUNTED))
