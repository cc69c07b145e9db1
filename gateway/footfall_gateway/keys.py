"""Turns API keys into a file of their hashes, and a token back into the key it proves."""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

# Tokens are 256 random bits, so the hash need not be slow for their sake. These are the parameters that are
# recommended for passwords; they cost about a tenth of a second, once per token and minute.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_TOKEN = re.compile(r"ffk_(?P<id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """What a key allows."""

    READ = "read"
    CONTACTS = "contacts"
    ERASE = "erase"


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


class KeysFileError(Exception):
    """The file of keys cannot be used; the text says why."""


class NoSuchKeyError(Exception):
    """No key has this id."""


def new_token() -> tuple[str, str, str]:
    """A token nobody has, the id in it, and its hash. The token itself is kept nowhere."""
    key_id = secrets.token_hex(6)
    token = f"ffk_{key_id}_{secrets.token_urlsafe(32)}"
    return token, key_id, _hasher.hash(token)


def id_in(token: str) -> str | None:
    """The id of the key that a token claims to be of; None for what is no token."""
    found = _TOKEN.fullmatch(token)
    return found["id"] if found else None


def is_proof(key: Key, token: str) -> bool:
    """Whether this is the key's token. Takes about 0.1 s of CPU; other threads run meanwhile."""
    try:
        return _hasher.verify(key.hash, token)
    except VerificationError:
        return False


NOBODYS_KEY = Key(id="", name="", hash=new_token()[2], scopes=[], sites=[], create_ms=0)
"""In the place of a key that is not there. Nobody has its token, and no file holds it."""


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
            except (OSError, msgspec.DecodeError) as error:
                raise KeysFileError(f"{self.path}: {error}") from error
            self._keys = {key.id: key for key in keys}
        return self._keys, True

    @contextmanager
    def changing(self) -> Iterator[dict[str, Key]]:
        """The keys by id, to be changed; written whole at the end, by one process at a time.

        Raises:
            KeysFileError: the file cannot be read or written.

        """
        try:
            with self.path.with_suffix(".lock").open("w") as lock:
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
            raise KeysFileError(f"{self.path}: {error}") from error
