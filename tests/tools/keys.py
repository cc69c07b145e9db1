"""API keys in a file, as `footfall-gateway keys create` writes them."""

from collections.abc import Iterable
from pathlib import Path

from footfall_eventlog.keys import Key, KeyFile, KeyScope, new_token

from tests.tools.visits import now_ms


def new_key(
    file: Path, name: str, scopes: Iterable[KeyScope], sites: Iterable[str] = (), *, expire_ms: int | None = None
) -> str:
    """Write a key; return its token."""
    token, key_id, token_hash = new_token()
    key = Key(
        id=key_id,
        name=name,
        hash=token_hash,
        scopes=[*scopes],
        sites=[*sites],
        create_ms=now_ms(),
        expire_ms=expire_ms,
    )
    with KeyFile(file).changing() as keys:
        keys[key_id] = key
    return token
