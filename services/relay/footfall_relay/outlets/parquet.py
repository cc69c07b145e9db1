"""Parquet files: one folder for each day and site, and one for erasures. Names follow Hive, as warehouses read them."""

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
from pyarrow import parquet

from footfall_relay.messages import ERASURE, REVISED, Message
from footfall_relay.outlets.attempts import Attempts
from footfall_relay.outlets.kinds import Refused
from footfall_relay.outlets_file import Parquet

_TIME: Final = pa.timestamp("ms", tz="UTC")
_EVENTS: Final = pa.schema(
    [
        ("visit_id", pa.string()),
        ("event_id", pa.string()),
        ("sequence", pa.string()),
        ("revised", pa.bool_()),
        ("erased", pa.bool_()),
        ("event_name", pa.string()),
        ("event_time", _TIME),
        ("received_time", _TIME),
        ("global_visit_id", pa.string()),
        ("page_id", pa.string()),
        ("url", pa.string()),
        ("category", pa.string()),
        ("language_code", pa.string()),
        ("data", pa.string()),
        ("staff", pa.bool_()),
        ("bot", pa.bool_()),
        ("named_identity_id", pa.string()),
        ("named_identity_hash", pa.string()),
        ("state", pa.string()),
        ("identity_id", pa.string()),
        ("identity_hash", pa.string()),
        ("session_id", pa.string()),
        ("contact_id", pa.string()),
        ("contact_status", pa.string()),
    ]
)
_ERASURES: Final = pa.schema(
    [("erasure_id", pa.string()), ("identity_hash", pa.string()), ("erase_time", _TIME), ("sequence", pa.string())]
)
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 60.0
_UNSAFE: Final = re.compile(r"^\.+$")


class ParquetSink:
    """The sink of a folder, for one partition. Messages wait in memory until their file is complete."""

    def __init__(self, outlet: Parquet, number: int) -> None:
        self._outlet = outlet
        self._number = number
        self._rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """By folder."""
        self._count = 0
        self._since = 0.0

    async def put(self, messages: Sequence[Message]) -> list[Refused]:
        """Keep for a file. Nothing is given up."""
        if messages and not self._count:
            self._since = time.monotonic()
        for message in messages:
            self._rows[_folder_of(message)].append(_row(message))
        self._count += len(messages)
        return []

    @property
    def holds(self) -> bool:
        """Whether messages wait, and neither their number nor their age makes a file."""
        is_old = time.monotonic() - self._since >= self._outlet.max_age_s
        return 0 < self._count < self._outlet.max_rows and not is_old

    async def flush(self) -> None:
        """Write the files. A disk that is full is waited for."""
        attempts = Attempts(
            self._outlet.name, first_pause_s=_FIRST_PAUSE_S, last_pause_s=_LAST_PAUSE_S, give_up_s=float("inf")
        )
        while self._rows:
            folder, rows = next(iter(self._rows.items()))
            name = f"{self._number:02d}-{rows[0]['sequence']}.parquet"
            try:
                await asyncio.to_thread(_write, Path(self._outlet.folder) / folder / name, rows)
            except OSError as error:
                await attempts.failed(type(error).__name__)
            else:
                del self._rows[folder]
                attempts.worked()
        self._count = 0

    async def close(self) -> None:
        """Nothing is open."""


def _folder_of(message: Message) -> str:
    if message.kind == ERASURE:
        return "erasures"
    day = time.strftime("%Y-%m-%d", time.gmtime(message.time_ms / 1000))
    site = quote(message.site, safe="")
    return f"events/day={day}/site={'_' + site if _UNSAFE.match(site) else site}"


def _row(message: Message) -> dict[str, Any]:
    about, data = message.reference, message.data
    if message.kind == ERASURE:
        return {
            "erasure_id": about.erasure_id,
            "identity_hash": about.identity_hash,
            "erase_time": about.erase_time_ms,
            "sequence": about.sequence,
        }
    plain = {_snake(name): value for name, value in _flat(data)}
    return {name: plain.get(name) for name in _EVENTS.names} | {
        "sequence": about.sequence,
        "revised": message.kind == REVISED,
        "data": bytes(data["data"]).decode("utf-8", "replace") if data["data"] else None,
    }


def _flat(data: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    yield from data.items()
    yield from data["visitor"].items()


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a file that is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = _ERASURES if path.parent.name == "erasures" else _EVENTS
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with hidden.open("wb") as file:
            parquet.write_table(pa.Table.from_pylist(rows, schema=schema), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
