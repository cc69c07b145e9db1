"""`footfall-gateway keys`: creates, lists, rotates and revokes API keys. Running gateways see a change immediately."""

import argparse
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from footfall_servicekit.settings import load

from footfall_gateway.auth import Key, KeyFile, KeyScope, KeysFileError, is_slow_hash, new_token
from footfall_gateway.settings import GatewaySettings

_DAY_MS = 86_400_000


def run(arguments: list[str], default_file: Path | None = None) -> int:
    """Carry out a command on `default_file`, by default GATEWAY_KEYS_FILE, and return the exit code."""
    options = _parser().parse_args(arguments)
    file = options.file or default_file or load(GatewaySettings).keys_file
    if not file:
        sys.stderr.write("No key file is given: set GATEWAY_KEYS_FILE, or use --file.\n")
        return 2
    try:
        options.run(KeyFile(file), options)
    except KeysFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="footfall-gateway keys", description="Manage the API keys of the data and /api/v1 routes."
    )
    parser.add_argument("--file", type=Path, help="key file; default: GATEWAY_KEYS_FILE")
    commands = parser.add_subparsers(required=True)

    create = commands.add_parser("create", help="create a key and print its token, which is shown only once")
    create.add_argument("name", help="name of the client, for lists and logs")
    create.add_argument(
        "--scope",
        action="append",
        type=KeyScope,
        choices=list(KeyScope),
        help="repeatable; default: read. read: history, live state and contacts; ingest: store visits and events, "
        "including sign-ins; contacts: write contacts and links; erase: erase people",
    )
    create.add_argument("--site", action="append", default=[], help="repeatable; default: all sites")
    create.add_argument("--staff", action="store_true", help="events that are stored with it are those of staff")
    create.add_argument("--days", type=int, help="days until the key expires; default: never")
    create.set_defaults(run=_create)

    listing = commands.add_parser("list", help="print all keys, without tokens")
    listing.set_defaults(run=_list)

    rotate = commands.add_parser("rotate", help="replace a key's token and print the new one; the old one ends now")
    rotate.add_argument("id")
    rotate.set_defaults(run=_rotate)

    revoke = commands.add_parser("revoke", help="remove a key; its token ends now")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)
    return parser


def _create(file: KeyFile, options: argparse.Namespace) -> None:
    token, key_id, token_hash = new_token()
    now_ms = time.time_ns() // 1_000_000
    key = Key(
        id=key_id,
        name=options.name,
        hash=token_hash,
        scopes=options.scope or [KeyScope.READ],
        sites=options.site,
        create_ms=now_ms,
        expire_ms=now_ms + options.days * _DAY_MS if options.days else None,
        staff=options.staff,
    )
    with file.changing() as keys:
        _record_change(file, "create", key)
        keys[key_id] = key
    _print(token)


def _list(file: KeyFile, _options: argparse.Namespace) -> None:
    for key in file.read()[0].values():
        ends = "never expires" if key.expire_ms is None else f"expires {_day(key.expire_ms)}"
        sites = ",".join(key.sites) or "all sites"
        further = ["staff"] if key.staff else []
        further += ["slow hash: rotate it"] if is_slow_hash(key.hash) else []
        made = f"made {_day(key.create_ms)}"
        _print("\t".join((key.id, key.name, ",".join(key.scopes), sites, made, ends, *further)))


def _rotate(file: KeyFile, options: argparse.Namespace) -> None:
    token, new_id, token_hash = new_token()
    with file.changing() as keys:
        old = _remove(keys, options.id)
        new = keys[new_id] = msgspec.structs.replace(old, id=new_id, hash=token_hash)
        _record_change(file, f"rotate {old.id}", new)
    _print(token)


def _revoke(file: KeyFile, options: argparse.Namespace) -> None:
    with file.changing() as keys:
        _record_change(file, "revoke", _remove(keys, options.id))


def _remove(keys: dict[str, Key], key_id: str) -> Key:
    if key_id not in keys:
        raise KeysFileError(f"No key has the id {key_id}. `footfall-gateway keys list` prints all ids.")
    return keys.pop(key_id)


def _record_change(file: KeyFile, action: str, key: Key) -> None:
    """Add a line to the file's record of changes. Before the change, so that every change has a line."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "uid": os.getuid(),
        "action": action,
        "key": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "sites": key.sites,
        "staff": key.staff,
    }
    descriptor = os.open(file.path.with_suffix(".audit"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "wb") as record:
        record.write(msgspec.json.encode(line) + b"\n")


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
