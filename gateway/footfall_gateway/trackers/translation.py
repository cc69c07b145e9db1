"""What all translators share: from what a message of an SDK says to the events of an envelope.

A translation is a function of the message alone, so a retry, a late and a shuffled message give the same events.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID, uuid5

import msgspec
from footfall_eventlog.events import (
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    MAX_TIMESTAMP_MS,
    PAGE_ENTERED,
    SIGN_IN,
    SIGN_OUT,
    USER_ID,
    USER_INFO,
)
from footfall_timeline import normalize_uuid

from footfall_gateway.beacons import (
    BeaconError,
    BeaconEvent,
    Envelope,
    Headers,
    Rejection,
    TooManyEventsError,
    to_int64,
    utf8_body,
    without_lone_surrogates,
)
from footfall_gateway.problem import format_error

TOKEN_KEY: Final = "footfallToken"  # noqa: S105 - the name of a field
"""The trait with a sign-in token: a UserInfo that has it is a SignIn."""

_NAMESPACE: Final = UUID("6f1d3e0c-5a52-4c8e-9a44-2a3f5b8f7a10")
"""Of ids that are no UUIDs. Another value would make new visitors of all that are known."""
_SIGN_OUT_NAMES: Final = frozenset({"signout", "signedout", "logout", "loggedout", "usersignedout", "userloggedout"})
_NO_LETTERS: Final = re.compile("[^a-z]")
_MAX_FIELDS: Final = 1_000

Decoded = TypeVar("Decoded")
SentData = dict[str, msgspec.Raw]
"""Properties as SDKs send them. The values stay JSON text, because no number may change."""
Data = Mapping[str, msgspec.Raw | str | int]
"""The data of an event."""
SentId = str | int | None
"""An id of a user or session, as SDKs send it."""
SentTime = str | int | float | None
"""A time as SDKs send it: ISO 8601, or milliseconds."""

_encode = msgspec.json.Encoder().encode
_decode_id = msgspec.json.Decoder(str | int).decode


class Request(NamedTuple):
    """A request of an SDK without its body. `kind`: what the translator's table says of its path."""

    kind: str
    query: bytes
    headers: Headers
    received_ms: int


@dataclass(slots=True)
class Tracked:
    """What one message of an SDK says: one event.

    A PageEntered without a `page` is a page of its own. `device` and `session` are the SDK's own ids; without a
    session, a day (UTC) of a device is a visit. `user` is the user id that the SDK knows. The message may say by the
    way who the visitor is (`names_user`), or that the user has left (`signs_out`). `site` is that of the message, if it
    has one.
    """

    name: str
    message_id: str
    device: str
    at_ms: int
    site: str | None = None
    session: str = ""
    user: str = ""
    names_user: bool = False
    signs_out: bool = False
    url: str | None = None
    page: str | None = None
    language: str | None = None
    data: Data = field(default_factory=dict)


class Translation:
    """The envelope of a request, made message by message."""

    def __init__(self, device_keys: str) -> None:
        """`device_keys`: the names of the ids that a message must have one of, for the text of a rejection."""
        self._device_keys = device_keys
        self._envelope = Envelope([], [], [], 0, None)

    def add_all(
        self,
        items: Iterable[bytes | msgspec.Raw],
        decode: Callable[[bytes], Decoded],
        track: Callable[[Decoded, bytes], Tracked | None],
    ) -> None:
        """Add the messages of a request. `track` gets a message and its text, and returns None for one to ignore."""
        for position, item in enumerate(items):
            text = bytes(item)
            if len(text) > MAX_EVENT_BYTES:
                self._reject(position, "too_large", f"event: at most {MAX_EVENT_BYTES} bytes")
                continue
            try:
                tracked = track(decode_json(text, decode), text)
            except BeaconError as error:
                self._reject(position, "malformed", str(error))
                continue
            if tracked:
                self.add(position, tracked)

    def add(self, position: int, tracked: Tracked) -> None:
        """Add the events of one message."""
        if not tracked.device:
            self._reject(position, "invalid_visit_id", f"{self._device_keys}: one of them must be given")
            return
        device = as_uuid(tracked.device)
        visit = as_uuid(tracked.session or _day(tracked.at_ms), UUID(device))
        event_id = as_uuid(tracked.message_id)
        name, data = _identifying(tracked)

        def append(name: str, event_id: str, at_ms: int, data: Data, **more: str | None) -> None:
            self._envelope.events.append(
                BeaconEvent(
                    event_name=name,
                    event_id=event_id,
                    visit_id=visit,
                    timestamp=at_ms,
                    global_visit_id=device,
                    site=tracked.site or None,
                    data=msgspec.Raw(_encode(data)),
                    **more,
                )
            )
            self._envelope.positions.append(position)

        if tracked.signs_out:
            append(SIGN_OUT, as_uuid(SIGN_OUT, UUID(event_id)), tracked.at_ms - 1, {})
        if tracked.names_user and tracked.user and name not in {USER_INFO, SIGN_IN, SIGN_OUT}:
            # Just before the event, so that it is an event of the user.
            append(USER_INFO, as_uuid(USER_INFO, UUID(event_id)), tracked.at_ms - 1, {USER_ID: tracked.user})
        # Pages identify and go on in the same millisecond, so here too the rest is of the user.
        at_ms = tracked.at_ms - (name in {USER_INFO, SIGN_IN})
        page = tracked.page or (event_id if name == PAGE_ENTERED else None)
        append(name, event_id, at_ms, data, url=tracked.url, page_id=page, language_code=tracked.language)

    def envelope(self, sent: SentTime, site: str | None = None) -> Envelope:
        """The envelope. Raises TooManyEventsError."""
        if len(self._envelope.events) > MAX_EVENTS:
            raise TooManyEventsError(f"events: at most {MAX_EVENTS} in one request")
        return self._envelope._replace(sent_ms=milliseconds(sent) or 0, site=site or None)

    def _reject(self, position: int, reason: str, message: str) -> None:
        self._envelope.rejections.append(Rejection(position, None, reason, message))


def _identifying(tracked: Tracked) -> tuple[str, Data]:
    """The name and the data of an event, which may say who the visitor is."""
    name, data = tracked.name, tracked.data
    if _NO_LETTERS.sub("", name.lower()) in _SIGN_OUT_NAMES:
        return SIGN_OUT, data
    if name in {USER_INFO, SIGN_IN}:
        if TOKEN_KEY in data:
            name = SIGN_IN
            data = {("token" if key == TOKEN_KEY else key): value for key, value in data.items()}
        if tracked.user:
            data = {**data, USER_ID: tracked.user}
    return name, data


def as_uuid(text: str, namespace: UUID = _NAMESPACE) -> str:
    """An id as a UUID: itself if it is one, else UUIDv5 of the namespace and it."""
    try:
        return normalize_uuid(text)
    except ValueError:
        return str(uuid5(namespace, text))


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(min(max(at_ms, 0), MAX_TIMESTAMP_MS) // 1000, UTC).date().isoformat()


def milliseconds(time: SentTime) -> int | None:
    """Milliseconds since the epoch. None for anything that is no time."""
    if isinstance(time, str):
        if time.isdecimal():
            return int(time[:15])
        try:
            moment = datetime.fromisoformat(time)
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
    return to_int64(time) if time is not None else None


def decode_json(body: bytes, decode: Callable[[bytes], Decoded]) -> Decoded:
    """The body as `decode` reads it. Raises BeaconError."""
    body = utf8_body(body)
    try:
        try:
            return decode(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # half of a surrogate pair, as in envelope.py, or no JSON
            return decode(without_lone_surrogates(body))
    except msgspec.ValidationError as error:
        raise BeaconError(format_error(error)) from None
    except msgspec.DecodeError:
        raise BeaconError("the body is not JSON") from None
    except RecursionError:
        raise BeaconError("the body is nested too deeply") from None


def form_fields(form: bytes) -> dict[str, str]:
    """The fields of a form or query; the last one of those with the same name. Raises BeaconError."""
    try:
        return dict(parse_qsl(form.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise BeaconError(f"the request has more than {_MAX_FIELDS} fields") from None


def id_text(sent: SentId) -> str:
    """An id as text, empty when there is none."""
    return "" if sent is None else str(sent)


def text_of(value: msgspec.Raw | None) -> str:
    """A value that is a text or an integer, as text; empty for all others."""
    try:
        return str(_decode_id(value)) if value else ""
    except msgspec.ValidationError:
        return ""


def of_user(user: str | None) -> str:
    """The device of a user of whom no device is known, empty when there is no user either."""
    return f"user/{user}" if user else ""


def given(**data: str | None) -> dict[str, str]:
    """The data that are given: neither None nor empty."""
    return {key: value for key, value in data.items() if value}
