"""The record of an interaction: how updates of it are merged, and its document.

Each field has the time of the update that gave its value. Of two values of a field the one with the later time stays,
at the same time the greater one. So the record is a maximum, and the order and number of updates do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_eventlog.interactions import interaction_key

from footfall_history.storage.documents import TIME_DIGITS, Document

_ABOUT: Final = "about"
_TEXTS: Final = ("agent", "queue", "disposition", "note", "data_json")
_TIMES: Final = ("start_time", "end_time")


def subject(kind: str, value: str) -> str:
    """What an interaction is about, as its document has it: a visit, an identity, a contact or a telephone number.

    `kind`: `visit_id`, `identity_id`, `contact_id` or `phone`.
    """
    return f"{kind}:{value}"


def subject_id(document: Mapping[str, Any], kind: str) -> str:
    """The id of what an interaction is about; empty if it is about something of another kind."""
    found, _, value = document["subject"].partition(":")
    return value if found == kind else ""


Value = Any
"""A text, bytes, a number (of the channel, or milliseconds since the epoch), or the list that `about` is."""


@dataclass(frozen=True)
class InteractionRecord:
    """An interaction. `fields`: the time (ms since the epoch) and value of each. `first_ms`: time of the first update.

    The field `about` is a list: kind and id of the subject, and of a visit the browser's id and the site.
    """

    key: str
    interaction_id: str
    first_ms: int
    fields: Mapping[str, tuple[int, Value]]
    rev: int = 0

    @classmethod
    def of(cls, update: InteractionUpdate) -> Self:
        """What one valid update says."""
        at_ms = update.update_time.ToMilliseconds()
        kind = update.WhichOneof(_ABOUT)
        values: dict[str, Value] = {
            _ABOUT: [kind, getattr(update, kind or ""), update.browser_visit_id, update.site],
            **{name: getattr(update, name) for name in _TEXTS if update.HasField(name)},
            **{name: getattr(update, name).ToMilliseconds() for name in _TIMES if update.HasField(name)},
        }
        if update.channel:
            values["channel"] = update.channel
        fields = {name: (at_ms, value) for name, value in values.items()}
        return cls(interaction_key(update), update.interaction_id, at_ms, fields)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """A record as stored."""
        fields = {name: (at_ms, value) for name, (at_ms, value) in document["fields"].items()}
        return cls(document["_id"], document["interaction_id"], document["first_ms"], fields, document["rev"])

    def merged(self, other: Self) -> Self:
        """The record with another one of the same interaction merged; `self` if nothing changes."""
        fields = {**self.fields}
        for name, value in other.fields.items():
            fields[name] = max(fields.get(name, value), value)
        first_ms = min(self.first_ms, other.first_ms)
        if (fields, first_ms) == (self.fields, self.first_ms):
            return self
        return replace(self, fields=fields, first_ms=first_ms, rev=self.rev + 1)

    def get(self, name: str, default: Value = "") -> Value:
        """The value of a field."""
        return self.fields[name][1] if name in self.fields else default

    @property
    def about(self) -> Sequence[str]:
        """Kind and id of the subject, and of a visit the browser's id and the site."""
        about: Sequence[str] = self.fields[_ABOUT][1]
        return about

    @property
    def start_ms(self) -> int:
        """When the interaction began: as reported, or else the time of the first update."""
        start_ms: int = self.get("start_time", self.first_ms)
        return start_ms

    @property
    def update_ms(self) -> int:
        """The time of the latest update. Each one says whom the interaction is about."""
        return self.fields[_ABOUT][0]

    @property
    def order_key(self) -> str:
        """The key that orders interactions: by time, then id."""
        return f"{self.start_ms:0{TIME_DIGITS}d}{self.key}"

    def document(self, subject_hash: str) -> Document:
        """The record as it is stored. `subject_hash`: by which an erasure finds it; empty for a visit."""
        kind, value, _, site = self.about
        return {
            "_id": self.key,
            "interaction_id": self.interaction_id,
            "rev": self.rev,
            "order_key": self.order_key,
            "agent": self.get("agent"),
            "site": site,
            "subject": subject(kind, value),
            "subject_hash": subject_hash,
            "first_ms": self.first_ms,
            "fields": {name: [*field] for name, field in self.fields.items()},
        }
