"""The outlets file (RELAY_FILE): where events go, and which."""

import base64
import binascii
import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from footfall_eventlog.sites import SITE_NAME
from msgspec import Meta

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # of every secret in the form of Standard Webhooks
_MAX_OUTLETS: Final = 32
_SECRET_BYTES: Final = range(24, 65)

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
State = Literal["RECOGNIZED", "AUTHENTICATED", "ANONYMOUS"]


class OutletsFileError(ValueError):
    """RELAY_FILE cannot be used. The text names every problem and quotes no secret."""


class Outlet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where events go.

    Empty filters do not restrict. `events` are names, in which `*` stands for any characters. With `state_changes`
    only events go out that have changed who the visitor is, into one of these states. Erasures always go out.
    """

    name: Name
    paused: bool = False
    sites: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    state_changes: tuple[State, ...] = ()

    def takes(self, site: str, event_name: str) -> bool:
        """Whether an event of this site and name may go out."""
        return (not self.sites or site in self.sites) and (
            not self.events or any(fnmatchcase(event_name, pattern) for pattern in self.events)
        )

    def problems(self) -> Iterator[str]:
        """What is wrong with the outlet, by field."""
        if wrong := [site for site in self.sites if not SITE_NAME.fullmatch(site)]:
            yield f"sites: {wrong[0]!r} must be the name of a site"


class Webhook(Outlet, frozen=True, kw_only=True):
    """An HTTP endpoint of a receiver.

    - `secret`, or `secret_env`, the environment variable that has it: what requests are signed with. Several secrets,
      separated by spaces, each give a signature, so that a receiver can change to the next one.
    - `batch`: messages in one request. More than one are sent one request at a time.
    - `parallel`: requests at the same time, of different visits.
    - `attempts`: after so many answers 4xx (other than 408, 425 and 429) a message becomes a dead letter.
    - `give_up_minutes`: so does one that could not be delivered for so long for another reason.
    """

    url: str
    secret: str = ""
    secret_env: str = ""
    batch: Annotated[int, Meta(ge=1, le=100)] = 1
    parallel: Annotated[int, Meta(ge=1, le=64)] = 8
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0
    first_pause_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    last_pause_s: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 5
    give_up_minutes: Annotated[float, Meta(gt=0, le=1_440)] = 15.0

    def problems(self) -> Iterator[str]:
        """What is wrong with the outlet, by field."""
        yield from super().problems()
        parts = urlsplit(self.url)
        try:
            is_usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:  # the port
            is_usable = False
        if not is_usable or parts.username is not None or parts.fragment:
            yield "url: must be `https://host/path`, without user and password"
        if bool(self.secret) == bool(self.secret_env):
            yield "secret, secret_env: exactly one must be set"
        elif not self.secrets():
            yield "secret_env: the environment variable must be set" if self.secret_env else "secret: must not be blank"
        elif not all(map(_is_secret, self.secrets())):
            yield f"secret: must be `{SECRET_PREFIX}` and the base64 form of 24 to 64 bytes"

    def is_plain(self) -> bool:
        """Whether requests could be read on their way to another machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    def secrets(self) -> list[str]:
        """The secrets."""
        return (self.secret or os.environ.get(self.secret_env, "")).split()

    def keys(self) -> list[bytes]:
        """The keys of signatures."""
        return [base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in self.secrets()]


class Kafka(Outlet, frozen=True, kw_only=True):
    """A topic of a broker of the Kafka protocol. A user needs a password, from an environment variable."""

    servers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=32)]
    topic: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    tls: bool = False
    ca_file: str = ""
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    user: str = ""
    password_env: str = ""

    def problems(self) -> Iterator[str]:
        """What is wrong with the outlet, by field."""
        yield from super().problems()
        if any(not host or not port.isdecimal() for host, _, port in (one.rpartition(":") for one in self.servers)):
            yield "servers: must be `host:port`"
        if bool(self.user) != bool(self.password_env):
            yield "user, password_env: must be set both, or neither"
        elif self.user and not os.environ.get(self.password_env):
            yield "password_env: the environment variable must be set"
        if self.ca_file and not (self.tls and Path(self.ca_file).is_file()):
            yield "ca_file: must be a file, and needs tls"
        if not find_spec("aiokafka"):
            yield "kafka: needs the extra `kafka` of footfall-relay, which is not installed"


class Parquet(Outlet, frozen=True, kw_only=True):
    """A folder of Parquet files. A file is complete with `max_rows` rows, or after `max_age_s`."""

    folder: str
    max_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 50_000
    max_age_s: Annotated[float, Meta(gt=0, le=3_600)] = 300.0

    def problems(self) -> Iterator[str]:
        """What is wrong with the outlet, by field."""
        yield from super().problems()
        folder = Path(self.folder)
        if not (folder.is_absolute() and folder.is_dir() and os.access(folder, os.W_OK)):
            yield "folder: must be the absolute path of a folder that can be written"
        if not find_spec("pyarrow"):
            yield "parquet: needs the extra `parquet` of footfall-relay, which is not installed"


class _OutletsFile(msgspec.Struct, forbid_unknown_fields=True):
    webhook: tuple[Webhook, ...] = ()
    kafka: tuple[Kafka, ...] = ()
    parquet: tuple[Parquet, ...] = ()


def read_outlets(file: Path | None, *, allow_http: bool) -> Mapping[str, Outlet]:
    """The outlets in the file, by name. Raises OutletsFileError."""
    if file is None:
        return {}
    try:
        found = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _OutletsFile)
    except OSError as error:
        raise OutletsFileError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, not TOML, or not of this form: none of these texts quotes a value
        raise OutletsFileError(f"{file}: {error}") from None
    outlets: list[Outlet] = [*found.webhook, *found.kafka, *found.parquet]
    if problems := [*_problems(outlets, allow_http=allow_http)]:
        raise OutletsFileError("\n".join(f"{file}: {problem}" for problem in problems))
    return {outlet.name: outlet for outlet in outlets}


def _problems(outlets: list[Outlet], *, allow_http: bool) -> Iterator[str]:
    if len(outlets) > _MAX_OUTLETS:
        yield f"must have at most {_MAX_OUTLETS} outlets"
    names = [outlet.name for outlet in outlets]
    if twice := {name for name in names if names.count(name) > 1}:
        yield f"name: several outlets are called {sorted(twice)[0]}"
    folders = [Path(outlet.folder).resolve() for outlet in outlets if isinstance(outlet, Parquet)]
    if len(folders) > len({*folders}):
        yield "folder: two outlets have the same"
    for outlet in outlets:
        yield from (f"{outlet.name}: {problem}" for problem in outlet.problems())
        if isinstance(outlet, Webhook) and outlet.is_plain() and not allow_http:
            yield f"{outlet.name}: url: must be https://, unless it is on this machine or RELAY_ALLOW_HTTP=true"


def _is_secret(text: str) -> bool:
    try:
        decoded = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        return False
    return text.startswith(SECRET_PREFIX) and len(decoded) in _SECRET_BYTES


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
