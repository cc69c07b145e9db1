"""Turns `footfall-history verify-erasure ID` into what the stores still hold of a person: a search through all bytes.

It looks into the whole Redis and the whole database, so also into what identity keeps there. What it finds where
docs/operations.md says that something may be left is printed as `listed`, all else as `left`.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

from footfall_servicekit import logs
from footfall_servicekit.background import RefusalError
from footfall_servicekit.settings import load

from footfall_history.event_log import Log
from footfall_history.event_log import Unavailable as LogUnavailable
from footfall_history.settings import HistorySettings
from footfall_history.storage import Store
from footfall_history.storage import Unavailable as StoreUnavailable

_PATIENCE_S: Final = 10.0
# What is shorter is in many a hash and number: it is looked for as a word of its own.
_SHORT: Final = 8
_WORD: Final = rb"[0-9A-Za-z]"

Places = AsyncIterator[tuple[str, str]]
"""Where something was found, and why something may be there; empty when nothing may."""


def run_verify_erasure(arguments: list[str]) -> int:
    """Carry out the command; the exit code: 0 nothing is left but what is listed, 1 something is, 2 not understood."""
    parser = argparse.ArgumentParser(
        prog="footfall-history verify-erasure", description="Search Redis and MongoDB for what is left of a person."
    )
    parser.add_argument(
        "id", help="the identity's id; -: read from standard input, so that it is in no list of processes"
    )
    identity = parser.parse_args(arguments).id
    identity = sys.stdin.readline().rstrip("\n") if identity == "-" else identity
    if not identity:
        parser.error("id: must not be empty")
    settings = load(HistorySettings)
    logs.configure("history", "critical")  # what goes wrong is told below
    try:
        return asyncio.run(_verify(settings, identity))
    except (*LogUnavailable, *StoreUnavailable, TimeoutError):
        sys.stderr.write("a store does not answer: nothing is known\n")
    except RefusalError as error:
        sys.stderr.write(f"{error}\n")
    return 1


async def _verify(settings: HistorySettings, identity: str) -> int:
    log = Log(settings.redis_url, settings.partitions, settings.redis_timeout_ms)
    store = Store.open(settings.mongo_url, settings.mongo_database, settings.mongo_timeout_ms)
    wanted, exit_code = forms(identity), 0
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await log.check()
        for places in (_in_redis(log, wanted), _in_mongodb(store, wanted, identity)):
            async for place, reason in places:
                sys.stdout.write(f"listed\t{place}\t{reason}\n" if reason else f"left\t{place}\n")
                exit_code = exit_code if reason else 1
    finally:
        await log.close()
        await store.close()
    return exit_code


def forms(identity: str) -> re.Pattern[bytes]:
    """An identity's id as it is, and as it is written in JSON and in addresses."""
    escaped = {json.dumps(identity, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False)}
    quoted = {quote(identity), quote(identity, safe=""), quote_plus(identity)}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), text) for text in quoted}
    texts = b"|".join(re.escape(text.encode()) for text in sorted({identity} | escaped | quoted))
    return re.compile(b"(?<!%b)(?:%b)(?!%b)" % (_WORD, texts, _WORD) if len(identity) < _SHORT else texts)


async def _in_redis(log: Log, wanted: re.Pattern[bytes]) -> Places:
    async for key, pieces in log.contents():
        async for piece in pieces:
            if wanted.search(key) or wanted.search(piece):
                yield f"redis {key.decode(errors='replace')}", _why_in_redis(key)
                break


def _why_in_redis(key: bytes) -> str:
    if key.startswith(b"log:"):
        return "the log holds it until it is trimmed"
    if key.startswith(b"slow:"):
        return "events that wait hold it until history has stored them"
    if key.startswith(b"aside:") and b":entry/" in key:
        return "a dead letter that cannot be read, until it is discarded or expires"
    return ""


async def _in_mongodb(store: Store, wanted: re.Pattern[bytes], identity: str) -> Places:
    async for collection, document in store.raw_documents():
        if wanted.search(document.raw):
            yield f"mongodb {collection} {document['_id']}", _why_in_mongodb(collection, document, identity)


def _why_in_mongodb(collection: str, document: Mapping[str, Any], identity: str) -> str:
    names = [document.get(field) for field in ("_id", "identity_id", "names_identity_id")]
    if collection == "contacts":
        return "a contact of the contact center, until it is deleted there"
    if collection in {"events", "identities"} and identity not in names:
        return "an event or a profile that is not theirs says it"
    return ""
