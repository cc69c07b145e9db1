"""Runs one trial of a policy from the settings of history, with a low priority."""

import asyncio
import os
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_eventlog.sites import parse_sites_file

from footfall_history.identity_client import IdentityClient
from footfall_history.policies.identity_pairs import IdentityPairs
from footfall_history.policies.link_evidence import LinkEvidence
from footfall_history.policies.links import LinkComparison, link_policies
from footfall_history.policies.report import Report
from footfall_history.policies.simulator import Counts, Pace, Range, Simulator
from footfall_history.settings import HistorySettings
from footfall_history.storage import Store, Tombstones

_TIMEOUT_S: Final = 10.0
_NICENESS: Final = 10
"""How much the processor prefers other processes: this one gets the time that they leave."""


class Trial(NamedTuple):
    """A policy, the visits to run under it, and how much of it is listed. `rate`: of Pace.

    `max_judged`: identities whose links are compared at most.
    """

    policy: IdentityPolicy
    visits: Range
    max_examples: int
    largest: int
    rate: float | None
    max_judged: int


class TellProgress(Protocol):
    """Something that takes what has been counted so far."""

    def __call__(self, counts: Counts, *, is_last: bool) -> None:
        """Take it after each group of visits, and in the end."""


class _SignedSite(msgspec.Struct):
    name: str
    keys: list[Any] = []


class _SitesFile(msgspec.Struct):
    site: list[_SignedSite] = []


async def try_policy(settings: HistorySettings, trial: Trial, tell: TellProgress) -> Report:
    """Run a trial in this process, which does nothing else.

    Raises TRANSIENT_STORE_ERRORS, TimeoutError, RefusalError, LaterVersionError, SitesFileError, and
    sqlite3.OperationalError if the temporary file cannot be written.
    """
    os.nice(_NICENESS)
    os.environ.setdefault("SQLITE_TMPDIR", tempfile.gettempdir())
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms, prefers_secondaries=True)
    tombstones = Tombstones(store, settings.erasure_secret, erases_anonymous=settings.erase_anonymous_events)
    identity = IdentityClient(settings.identity_target, settings.identity_timeout_ms, settings.client_tls)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await tombstones.check()
        with IdentityPairs() as pairs, await _evidence(identity, trial.policy, settings.phone_region) as evidence:
            simulator = Simulator(
                store,
                tombstones,
                pairs,
                trial.policy,
                _signing_sites(settings.sites_file),
                evidence=evidence,
                max_transitions=settings.max_transitions_per_visit,
                max_examples=trial.max_examples,
            )
            counts, pace = simulator.counts, Pace(trial.rate)
            await simulator.run(trial.visits, pace, lambda: tell(counts, is_last=False))

            async def pause(took_s: float) -> None:
                tell(counts, is_last=False)
                await pace.pause(0, took_s)

            links = None
            if evidence:
                comparison = LinkComparison(evidence, identity, trial.largest, is_of_sites=bool(trial.visits.sites))
                with suppress(ConnectionError):
                    links = await comparison.run(trial.max_judged, pause)
            tell(counts, is_last=True)
            return simulator.report(trial.visits, trial.largest, links)
    finally:
        await identity.close()
        await store.close()


async def _evidence(
    identity: IdentityClient, policy: IdentityPolicy, phone_region: str | None
) -> AbstractContextManager[LinkEvidence | None]:
    """What gathers the evidence for links; None if identity does not answer."""
    try:
        return LinkEvidence(*await link_policies(identity, policy), phone_region)
    except ConnectionError:
        return nullcontext()


def _signing_sites(file: Path | None) -> frozenset[str]:
    """The sites where only a SignIn with a valid token authenticates."""
    listed = parse_sites_file(file, _SitesFile).site if file else []
    return frozenset(site.name for site in listed if site.keys)
