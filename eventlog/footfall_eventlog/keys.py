"""API keys: their tokens, the hashes of tokens, the file that stores the keys, and gRPC callers that show one."""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec
import structlog
from footfall_servicekit.callers import Caller

# A token has 256 random bits. It cannot be guessed, so its hash need not be slow.
_FAST = "sha256:"
_TOKEN = re.compile(r"ffk_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")

_log = structlog.get_logger()


class KeyScope(StrEnum):
    """A permission of an API key."""

    READ = "read"
    """Read history, live state and contacts."""
    INGEST = "ingest"
    """Store visits and events, including transitions (SignIn, UserInfo, SignOut), and replay dead letters."""
    CONTACTS = "contacts"
    """Write contacts, links and interactions."""
    ERASE = "erase"
    """Erase people."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as stored. `sites` empty: all sites. Times are milliseconds since the epoch.

    `staff`: events that are stored with it are those of staff.
    """

    id: str
    name: str
    hash: str
    scopes: list[KeyScope]
    sites: list[str]
    create_ms: int
    expire_ms: int | None = None
    staff: bool = False

    def has_expired(self, now_ms: float) -> bool:
        """Whether the key has expired."""
        return self.expire_ms is not None and self.expire_ms <= now_ms


class KeysFileError(ValueError):
    """The key file cannot be used, or does not have the key; the text says why."""


def new_token() -> tuple[str, str, str]:
    """A new token, the key id in it, and its hash. The token itself is not stored."""
    key_id = secrets.token_hex(6)
    token = f"ffk_{key_id}_{secrets.token_urlsafe(32)}"
    return token, key_id, fast_hash(token)


def fast_hash(token: str) -> str:
    """The hash under which a token is stored."""
    return _FAST + hashlib.sha256(token.encode()).hexdigest()


def key_id_of(token: str) -> str | None:
    """The key id in a token; None when the text is not a token."""
    found = _TOKEN.fullmatch(token)
    return found["id"] if found else None


def matches_hash(kept: str, token: str) -> bool:
    """Whether the token has this fast hash."""
    return hmac.compare_digest(kept.encode(), fast_hash(token).encode())


def check_keys_file(path: Path) -> None:
    """Raises KeysFileError when the file cannot be used, or its folder does not exist."""
    if not path.parent.is_dir():
        raise KeysFileError(f"{path}: its folder does not exist")
    KeyFile(path).read()


class KeyFile:
    """The key file: servers read it, the command changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def read(self) -> tuple[dict[str, Key], bool]:
        """The keys by id, and whether they have changed since the last call. Cheap when they have not.

        A file that does not exist has no keys.

        Raises:
            KeysFileError: the file cannot be read, or is not a list of keys.

        """
        try:
            state = self.path.stat()
            seen = (state.st_mtime_ns, state.st_ino, state.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return self._keys, False
        # Set before the file is read: an unusable file has no keys, and is reported once.
        self._seen, self._keys = seen, {}
        if any(seen):
            try:
                keys = msgspec.json.decode(self.path.read_bytes(), type=list[Key])
            except OSError as error:
                raise KeysFileError(f"{self.path}: {error.strerror}") from error
            except msgspec.DecodeError as error:
                place = str(error).partition(" - at ")[2] or "its root"
                raise KeysFileError(f"{self.path}: is not a list of keys at {place}") from error
            self._keys = {key.id: key for key in keys}
        return self._keys, True

    @contextmanager
    def changing(self) -> Iterator[dict[str, Key]]:
        """The keys by id, to be changed. The file is written as a whole at the end, by one process at a time.

        Raises:
            KeysFileError: the file cannot be read or written.

        """
        try:
            lock_file = os.open(self.path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(lock_file, "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                keys = dict(self.read()[0])
                yield keys
                new = self.path.with_suffix(".new")
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.format(msgspec.json.encode(list(keys.values()))))
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(self.path)
        except OSError as error:
            raise KeysFileError(f"{self.path}: {error.strerror}") from error


class KeyCallers:
    """The gRPC callers that show a key of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._file = KeyFile(path)

    def find(self, token: str) -> Caller | None:
        """The caller with this token; None when it is none of a key that is valid now.

        A key of an earlier version, which has a slow hash, is not valid here until it is rotated.
        """
        try:
            keys, _ = self._file.read()
        except KeysFileError as error:  # once for each change of the file
            _log.error("the key file cannot be used; no key is valid", reason=str(error))
            return None
        key = keys.get(key_id_of(token) or "")
        if key is None or not matches_hash(key.hash, token) or key.has_expired(time.time() * 1000):
            return None
        return Caller(key.name, key.id, frozenset(key.scopes), frozenset(key.sites))
