"""The folder of a backup: files of records and of documents, and a manifest that is written last.

| file | holds |
|---|---|
| `manifest.json` | `Manifest`: without it the backup is not complete |
| `redis.gz` | records of `Record`, each after its length in 4 bytes |
| `mongodb/<collection>.bson.gz` | documents, in the form of `mongodump --gzip` |
| `keys/` | secrets and files of the configuration, as the environment of the command names them |

It contains personal data and secrets: only its owner can read it.
"""

import gzip
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
from footfall_servicekit.background import RefusalError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
REDIS_FILE: Final = "redis.gz"
MONGO_FOLDER: Final = "mongodb"
KEYS_FOLDER: Final = "keys"

_SUFFIX: Final = ".bson.gz"
_LENGTH: Final = struct.Struct(">I")
_BSON_LENGTH: Final = struct.Struct("<i")
_CHUNK: Final = 1024 * 1024
_FAST: Final = 1


class SavedKey(msgspec.Struct, tag="key", array_like=True):
    """A key of live state as Redis dumps it. `expires_ms`: since the epoch, -1: never."""

    key: bytes
    expires_ms: int
    value: bytes


class SavedEntry(msgspec.Struct, tag="entry", array_like=True):
    """An entry of the event log."""

    partition: int
    id: str
    payload: bytes


class SavedSlowBatch(msgspec.Struct, tag="slow", array_like=True):
    """A batch that waits for history beside the log."""

    partition: int
    payload: bytes


class SavedDeadLetter(msgspec.Struct, tag="letter", array_like=True):
    """A dead letter of history."""

    partition: int
    id: str
    created_ms: int
    reason: str
    payload: bytes


Record = SavedKey | SavedEntry | SavedSlowBatch | SavedDeadLetter


class LogStart(msgspec.Struct, frozen=True):
    """Where the log of a partition begins: how many entries it no longer holds, and when its first one was appended.

    `oldest_ms` is that of the last removed entry if the log is empty. `added`: entries ever appended.
    """

    partition: int
    epoch: str
    removed: int
    added: int
    oldest_ms: int
    last_id: str


class SavedFile(msgspec.Struct, frozen=True):
    """A file of the backup: records in it, and the SHA-256 of its bytes in hexadecimal."""

    records: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What is in a backup, and of when. Times are in milliseconds since the epoch."""

    version: str
    """Of `footfall-ops`."""
    moment: str
    """Every event that was confirmed before this time (RFC 3339) is in the backup."""
    began_ms: int
    unstored_since_ms: int
    """When the oldest entry that history had not stored was appended, or the backup began; 0: not known."""
    partitions: int
    erasure_key_check: str
    log: list[LogStart]
    files: dict[str, SavedFile]
    format: int = FORMAT


class _HashingFile:
    """A file that is written once, and the hash of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write bytes."""
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Pass on what is written."""
        self._file.flush()


class Writer:
    """Writes records into a compressed file."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self.records = 0

    def add(self, record: Record) -> None:
        """Add a record of Redis."""
        encoded = msgspec.msgpack.encode(record)
        self.add_bytes(_LENGTH.pack(len(encoded)) + encoded)

    def add_bytes(self, data: bytes) -> None:
        """Add a document, which begins with its length."""
        self._file.write(data)
        self.records += 1


class Folder:
    """The folder of one backup."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder. Raises RefusalError if it is there already and not empty."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self.path.iterdir()):
            raise RefusalError(f"{self.path}: must be a new or an empty folder")

    @contextmanager
    def written(self, name: str, files: dict[str, SavedFile]) -> Iterator[Writer]:
        """Write a file; it is in `files` afterwards."""
        (self.path / name).parent.mkdir(mode=0o700, exist_ok=True)
        with open(_private(self.path / name), "wb") as raw:
            hashing = _HashingFile(raw)
            with gzip.GzipFile(filename="", mode="wb", fileobj=hashing, compresslevel=_FAST, mtime=0) as file:
                writer = Writer(file)
                yield writer
            raw.flush()
            os.fsync(raw.fileno())
        files[name] = SavedFile(writer.records, hashing.hash.hexdigest())

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the configuration."""
        (self.path / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(_private(self.path / name), "w", encoding="utf-8") as file:
            file.write(text)

    def write_manifest(self, manifest: Manifest) -> None:
        """Complete the backup."""
        temporary = self.path / f"{MANIFEST}.new"
        with open(_private(temporary), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / MANIFEST)

    def read_manifest(self) -> Manifest:
        """The manifest. Raises RefusalError if the backup is not complete, or of another form."""
        try:
            manifest = msgspec.json.decode((self.path / MANIFEST).read_bytes(), type=Manifest)
        except FileNotFoundError:
            raise RefusalError(f"{self.path}: is no complete backup: it has no {MANIFEST}") from None
        except msgspec.DecodeError as error:
            raise RefusalError(f"{self.path / MANIFEST}: cannot be read: {error}") from None
        if manifest.format != FORMAT:
            raise RefusalError(f"{self.path}: has the form {manifest.format}, and this version reads {FORMAT}")
        return manifest

    def check(self, manifest: Manifest) -> None:
        """Raise RefusalError if a file is missing or has changed."""
        for name, saved in manifest.files.items():
            digest = hashlib.sha256()
            try:
                with open(self.path / name, "rb") as file:
                    while chunk := file.read(_CHUNK):
                        digest.update(chunk)
            except FileNotFoundError:
                raise RefusalError(f"{self.path / name}: is missing") from None
            if digest.hexdigest() != saved.sha256:
                raise RefusalError(f"{self.path / name}: is damaged: its SHA-256 is not that of {MANIFEST}")

    def records(self) -> Iterator[Record]:
        """The records of Redis, in the order in which they were written."""
        decode = msgspec.msgpack.Decoder(Record).decode
        with gzip.open(self.path / REDIS_FILE, "rb") as file:
            while head := file.read(_LENGTH.size):
                yield decode(file.read(_LENGTH.unpack(head)[0]))

    def collections(self, manifest: Manifest) -> list[str]:
        """The names of the collections."""
        prefix = f"{MONGO_FOLDER}/"
        return [name[len(prefix) : -len(_SUFFIX)] for name in manifest.files if name.startswith(prefix)]

    def documents(self, collection: str) -> Iterator[bytes]:
        """The documents of a collection."""
        with gzip.open(self.path / file_of(collection), "rb") as file:
            while head := file.read(_BSON_LENGTH.size):
                yield head + file.read(_BSON_LENGTH.unpack(head)[0] - len(head))


def file_of(collection: str) -> str:
    """The name of the file of a collection."""
    return f"{MONGO_FOLDER}/{collection}{_SUFFIX}"


def _private(path: Path) -> int:
    """Open a new file that only its owner may read."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
