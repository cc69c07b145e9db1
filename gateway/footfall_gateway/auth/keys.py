"""Turns API keys into a file of their hashes, and a token back into the key it proves."""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

# Tokens are 256 random bits, which nobody finds by trying: their hash need not be slow.
_FAST = "sha256:"
# Earlier versions kept the slow hash that is meant for passwords. It holds its parameters itself.
_SLOW = "$argon2"
_slow_hasher = PasswordHasher()
_TOKEN = re.compile(r"ffk_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    """To look: history, live state, contacts."""
    INGEST = "ingest"
    """To store visits and events, also those that say who a visitor is."""
    CONTACTS = "contacts"
    """To write contacts and their links."""
    ERASE = "erase"
    """To erase people."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key as kept. `sites` empty: all of them. Times are milliseconds since the epoch."""

    id: str
    name: str
    hash: str
    scopes: list[Scope]
    sites: list[str]
    create_ms: int
    expire_ms: int | None = None

    def has_expired(self, now_ms: float) -> bool:
        """Whether its time is over."""
        return self.expire_ms is not None and self.expire_ms <= now_ms


class KeysFileError(ValueError):
    """The file of keys cannot be used; the text says why."""


class NoSuchKeyError(Exception):
    """No key has this id."""


def new_token() -> tuple[str, str, str]:
    """A token nobody has, the id in it, and its hash. The token itself is kept nowhere."""
    key_id = secrets.token_hex(6)
    token = f"ffk_{key_id}_{secrets.token_urlsafe(32)}"
    return token, key_id, fast_hash(token)


def fast_hash(token: str) -> str:
    """The hash that a token is kept as."""
    return _FAST + hashlib.sha256(token.encode()).hexdigest()


def id_in(token: str) -> str | None:
    """The id of the key that a token claims to be of; None for what is no token."""
    found = _TOKEN.fullmatch(token)
    return found["id"] if found else None


def is_slow(kept: str) -> bool:
    """Whether a hash is of the old kind, for `is_slow_proof`; else it is for `is_proof`."""
    return kept.startswith(_SLOW)


def is_proof(kept: str, token: str) -> bool:
    """Whether this is the token with that hash."""
    return hmac.compare_digest(kept.encode(), fast_hash(token).encode())


def is_slow_proof(kept: str, token: str) -> bool:
    """Whether this is the token with that slow hash. Takes about 0.1 s of CPU; other threads run meanwhile."""
    try:
        return _slow_hasher.verify(kept, token)
    except (VerificationError, InvalidHashError):
        return False


def check_keys_file(path: Path) -> None:
    """Raises KeysFileError for a file that cannot be used, or not be made where it is to be."""
    if not path.parent.is_dir():
        raise KeysFileError(f"{path}: its folder is not there")
    KeyFile(path).read()


class KeyFile:
    """The file, as a server reads it and as the command changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def read(self) -> tuple[dict[str, Key], bool]:
        """The keys by id, and whether they have changed since the last call. Cheap when they have not.

        A file that is not there holds no keys.

        Raises:
            KeysFileError: it cannot be read, or is not what it should be.

        """
        try:
            state = self.path.stat()
            seen = (state.st_mtime_ns, state.st_ino, state.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return self._keys, False
        # Noted before it is read: one that cannot be used holds no keys, and is complained about once.
        self._seen, self._keys = seen, {}
        if any(seen):
            try:
                keys = msgspec.json.decode(self.path.read_bytes(), type=list[Key])
            except OSError as error:
                raise KeysFileError(f"{self.path}: {error.strerror}") from error
            except msgspec.DecodeError as error:
                place = str(error).partition(" - at ")[2] or "its root"
                raise KeysFileError(f"{self.path}: is no list of keys at {place}") from error
            self._keys = {key.id: key for key in keys}
        return self._keys, True

    @contextmanager
    def changing(self) -> Iterator[dict[str, Key]]:
        """The keys by id, to be changed; written whole at the end, by one process at a time.

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
