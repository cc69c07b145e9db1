"""The command `footfall-history verify-erasure`: searches Redis and MongoDB for what remains of an identity.

It searches all keys and collections, also those of other services. A finding in a place where docs/privacy.md says
that data may remain is printed as `listed`, any other as `left`.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from footfall_eventlog.log import STREAM_PREFIX
from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_history.event_log import TRANSIENT_LOG_ERRORS, EventLog
from footfall_history.settings import HistorySettings
from footfall_history.storage import TRANSIENT_STORE_ERRORS, Store, subject_id

_TIMEOUT_S: Final = 10.0
# Shorter ids occur within hashes and numbers, so they must not touch another letter or digit.
_SHORT: Final = 8
_WORD: Final = rb"[0-9A-Za-z]"

Findings = AsyncIterator[tuple[str, str]]
"""Places where an id was found, each with the reason why it may be there; empty when it must not."""


def run_verify_erasure(arguments: list[str]) -> int:
    """Run the command. Returns the exit code: 0 nothing is left, 1 something is or the search failed, 2 usage error."""
    parser = argparse.ArgumentParser(
        prog="footfall-history verify-erasure",
        description="Search Redis and MongoDB for what remains of an identity after its erasure.",
    )
    parser.add_argument(
        "id", help="the identity's id; -: read it from standard input, so that it appears in no list of processes"
    )
    identity = parser.parse_args(arguments).id
    identity = sys.stdin.readline().rstrip("\n") if identity == "-" else identity
    if not identity:
        parser.error("id: must not be empty")
    settings = load(HistorySettings)
    logs.configure("history", "critical")  # errors are written to standard error instead
    try:
        return asyncio.run(_verify(settings, identity))
    except (*TRANSIENT_LOG_ERRORS, *TRANSIENT_STORE_ERRORS, TimeoutError):
        sys.stderr.write(
            "Redis or MongoDB does not answer, so nothing is known. Check REDIS_URL and MONGO_URL and try again.\n"
        )
    except RefusalError as error:
        sys.stderr.write(f"{error}\n")
    return 1


async def _verify(settings: HistorySettings, identity: str) -> int:
    log = EventLog(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    pattern, exit_code = search_pattern(identity), 0
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await log.check()
        for places in (_in_redis(log, pattern), _in_mongodb(store, pattern, identity)):
            async for place, reason in places:
                sys.stdout.write(f"listed\t{place}\t{reason}\n" if reason else f"left\t{place}\n")
                exit_code = exit_code if reason else 1
    finally:
        await log.close()
        await store.close()
    return exit_code


def search_pattern(identity: str) -> re.Pattern[bytes]:
    """Matches an identity's id as it is, and as it is escaped in JSON and in URLs."""
    escaped = {json.dumps(identity, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    quoted = {quote(identity), quote(identity, safe=""), quote_plus(identity)}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text) for text in quoted}
    texts = b"|".join(re.escape(text.encode()) for text in sorted({identity} | escaped | quoted))
    return re.compile(b"(?<!%b)(?:%b)(?!%b)" % (_WORD, texts, _WORD) if len(identity) < _SHORT else texts)


async def _in_redis(log: EventLog, pattern: re.Pattern[bytes]) -> Findings:
    async for key, parts in log.raw_contents():
        async for part in parts:
            if pattern.search(key) or pattern.search(part):
                yield f"redis {key.decode(errors='replace')}", _why_in_redis(key)
                break


def _why_in_redis(key: bytes) -> str:
    if key.startswith(STREAM_PREFIX.encode()):
        return "the event log, until the entry is trimmed"
    if key.startswith(b"slow:"):
        return "events of slow visits, until history has stored them"
    if key.startswith(b"aside:") and b":entry/" in key:
        return "a malformed log entry among the dead letters, until it is discarded or expires"
    return ""


async def _in_mongodb(store: Store, pattern: re.Pattern[bytes], identity: str) -> Findings:
    async for collection, document in store.raw_documents():
        if pattern.search(document.raw):
            yield f"mongodb {collection} {document['_id']}", _why_in_mongodb(collection, document, identity)


def _why_in_mongodb(collection: str, document: Mapping[str, Any], identity: str) -> str:
    names = [document.get(field) for field in ("_id", "identity_id", "names_identity_id")]
    if collection == "contacts":
        return "a contact of the contact center, until it is deleted"
    if collection == "generic_values":
        return "a value that other identities give"
    if (
        collection == "interactions"
        and document["subject"].partition(":")[2] != identity
        and not subject_id(document, "visit_id")
    ):
        return "content of an interaction with another person"
    if collection in {"events", "identities"} and identity not in names:
        return "content of another visitor's event or of another identity"
    return ""
