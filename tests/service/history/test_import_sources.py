"""Sources of visits to import: reading a server or a file, refusals, and continuing from a position."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from footfall_history.importing.importer import ProgressFile
from footfall_history.importing.rest_client import RestClient, StoppedError, read_credentials
from footfall_history.importing.sources import FileSource, Position, ServerSource, Source, pages
from footfall_history.storage.store import Store

from tests.tools.original import PASSWORD, USER, OldVisit, running_original
from tests.tools.ports import free_ports
from tests.tools.visits import now_ms


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "credentials"
    file.write_text(f"{USER}:{PASSWORD}\n", encoding="utf-8")
    return read_credentials(file)


def visits() -> list[OldVisit]:
    return [OldVisit(now_ms(), [("Click", 0, {})], **{name: "Recognized"}) for name in ("ann", "ben", "cleo")]


async def read(source: Source, place: Position) -> list[tuple[Position, str]]:
    return [(before, visit.visit_id) async for before, parts in source.visits(place) async for visit, _ in parts]


async def test_reading_a_server_continues_from_a_position(credentials: dict[str, str]) -> None:
    ann, ben, cleo = visits()
    async with (
        running_original(ann, ben, cleo) as original,
        RestClient(original.url, credentials, rate=1_000) as client,
    ):
        source = ServerSource(client, pytest.fail)
        assert await source.detect() is False
        everything = await read(source, Position())
        assert everything == [
            (Position(), ann.id),
            (Position("", "ann"), ben.id),
            (Position("", "ben"), cleo.id),
        ]
        assert await read(source, everything[2][0]) == everything[2:]


@pytest.mark.parametrize("cursors", ["page_start", "another_name"])
async def test_everything_is_read_with_and_without_cursors(credentials: dict[str, str], cursors: str) -> None:
    visit = OldVisit(now_ms(), [("Click", number, {}) for number in range(5)])
    async with running_original(visit) as original, RestClient(original.url, credentials, rate=1_000) as client:
        original.cursors = cursors
        answers = [answer async for _, answer in pages(client, f"/visits/{visit.id}/events", 2)]
    ids = [event["eventID"] for answer in answers for event in json.loads(answer.body)]
    assert list(dict.fromkeys(ids)) == [event["eventID"] for event in visit.events]


async def test_reading_a_file_continues_from_a_position(tmp_path: Path) -> None:
    file = tmp_path / "visits.jsonl"
    lines = [f"{json.dumps(visit.events[0])}\n" for visit in visits() for _ in range(200)]
    file.write_text("".join(lines))
    reasons: list[str] = []
    source = FileSource(file, reasons.append)
    everything = await read(source, Position())
    assert (len(everything), reasons) == (600, [])
    last = everything[-1][0]
    assert int(last.page) == len("".join(lines[:500]))
    assert await read(source, last) == everything[500:]


async def test_requests_to_a_busy_server_keep_the_rate_and_end(credentials: dict[str, str]) -> None:
    async with running_original() as original:
        original.failures = 2
        async with RestClient(original.url, credentials, attempts=1) as client:
            with pytest.raises(StoppedError, match="it answers 503, after 1 attempts"):
                await client.get("/identities")
        async with RestClient(original.url, credentials, rate=20) as client:
            begun = time.monotonic()
            assert [await client.get("/identities") for _ in range(5)]
            assert time.monotonic() - begun >= 5 / 20
    [unused_port] = free_ports(1)
    async with RestClient(f"http://127.0.0.1:{unused_port}", {}, attempts=2) as client:
        with pytest.raises(StoppedError, match="does not answer"):
            await client.get("/identities")


async def test_a_refused_request_is_not_repeated() -> None:
    async with running_original() as original, RestClient(original.url, {}) as client:
        with pytest.raises(StoppedError, match=r"refuses these credentials.*401"):
            await client.get("/identities")


def test_credentials_are_read_from_a_file_only(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("Bearer ff_key\n")
    assert read_credentials(file) == {"Authorization": "Bearer ff_key"}
    assert read_credentials(None) == {}
    file.write_text("secret")
    for given in file, tmp_path / "missing":
        with pytest.raises(StoppedError) as refused:
            read_credentials(given)
        assert "secret" not in str(refused.value)
    with pytest.raises(StoppedError, match="must not contain credentials"):
        RestClient("https://user:secret@gwe.example", {})


def test_a_malformed_url_is_refused_before_the_first_request(tmp_path: Path) -> None:
    for url in "gwe.example:9443", "ftp://gwe.example", "https://":
        with pytest.raises(StoppedError, match="must begin with"):
            RestClient(url, {})
    file = tmp_path / "ca"
    file.write_text("no certificate")
    for ca in file, tmp_path / "missing":
        with pytest.raises(StoppedError, match="cannot be used"):
            RestClient("https://gwe.example", {}, ca=ca)


def test_a_progress_file_belongs_to_one_source(tmp_path: Path) -> None:
    file = tmp_path / "progress"
    progress = ProgressFile(file, "https://gwe.example")
    assert progress.read() == Position()
    progress.save(Position("cursor", "ann"))
    assert progress.read() == Position("cursor", "ann")
    assert os.stat(file).st_mode & 0o777 == 0o600
    with pytest.raises(StoppedError, match="another import"):
        ProgressFile(file, "https://other.example").read()
    progress.remove()
    assert list(tmp_path.iterdir()) == []
    file.write_text("[]")
    with pytest.raises(StoppedError, match="cannot be read"):
        progress.read()
    with pytest.raises(StoppedError, match="cannot be written"):
        ProgressFile(tmp_path / "missing" / "progress", "").save(Position())


async def test_nothing_is_imported_with_another_erasure_key(
    store: Store, mongo_url: str, mongo_database: str, tmp_path: Path
) -> None:
    await store.put_tombstone("00" * 32, now_ms(), "of another key")
    settings = {"MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database, "NEVER_ERASE": "true"}
    file = tmp_path / "past.jsonl"
    file.touch()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("footfall-import"),
        "file",
        file,
        env=os.environ | settings,
        stderr=subprocess.PIPE,
    )
    said = (await process.communicate())[1].decode()
    assert process.returncode == 1
    assert "ERASURE_KEY: identities were erased in this database with another key; set that one" in said
    assert "Traceback" not in said
