"""The indexes of history's collections, and which work needs them."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple


class Need(Enum):
    """What an index is needed for, the most urgent first."""

    LOG = "reading the event log"
    READY = "the queries without which history does not report that it serves"
    REST = "other queries, which are refused until it exists"


class Index(NamedTuple):
    """An index of a collection, all of whose fields ascend.

    `is_partial`: it has only documents with a text in its first field.
    """

    collection: str
    fields: tuple[str, ...]
    need: Need
    is_partial: bool = False

    @property
    def name(self) -> str:
        """Collection and first field, which no other index begins with: a filter begins with the same field."""
        return f"{self.collection}.{self.fields[0]}"

    @property
    def keys(self) -> list[tuple[str, int]]:
        """The fields as the driver takes them."""
        return [(field, 1) for field in self.fields]

    @property
    def options(self) -> dict[str, Any]:
        """The options as the driver takes them."""
        return {"partialFilterExpression": {self.fields[0]: {"$gt": ""}}} if self.is_partial else {}


_INDEXES: Final = (
    # Events of a visit in order; ranges to be attributed again.
    Index("events", ("visit_id", "order_key"), Need.LOG),
    # Visits in order, of all sites or of one; expired visits.
    Index("visits", ("start_key",), Need.READY),
    Index("visits", ("site", "start_key"), Need.READY),
    # Visits of an identity in order.
    Index("visits", ("identities", "start_key"), Need.READY),
    # The visit of a session.
    Index("visits", ("session_ids",), Need.READY),
    # Events of an identity in order. Most events have no identity and stay out of it.
    Index("events", ("identity_id", "order_key"), Need.READY, is_partial=True),
    # A page with its events in order.
    Index("events", ("page_id", "order_key"), Need.READY),
    # Visits that may be live.
    Index("visits", ("touched_ms",), Need.REST),
    # An event by its id alone: the first received.
    Index("events", ("event_id", "received_ms"), Need.REST),
    # Visits of an identity to be erased, by its keyed hash; events that name such an identity, and events of a visit
    # whose user ids name no person.
    Index("visits", ("identity_hashes",), Need.REST),
    Index("events", ("names_hash",), Need.REST, is_partial=True),
    # Interactions in order: of all, of a site, about any of several subjects, or of an agent; those that an erasure
    # removes.
    Index("interactions", ("order_key",), Need.REST),
    Index("interactions", ("site", "order_key"), Need.REST),
    Index("interactions", ("subject", "order_key"), Need.REST),
    Index("interactions", ("agent", "order_key"), Need.REST),
    Index("interactions", ("subject_hash", "order_key"), Need.REST),
    # Scorecards of a site by day.
    Index("history_scorecards", ("site", "_id"), Need.REST),
    # Visits of a device or a user agent, in order.
    Index("visits", ("global_visit_id", "start_key"), Need.REST),
    Index("visits", ("user_agent", "start_key"), Need.REST),
)
INDEXES: Final = {index.name: index for index in _INDEXES}
"""All but those on `_id`, by name, in the order in which they are made. `make bench` measures what each costs."""


def index_names(*needs: Need) -> list[str]:
    """The names of the indexes that are needed for this."""
    return [name for name, index in INDEXES.items() if index.need in needs]


def match_stages(collection: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of an aggregation for a filter: first what the index on its first field serves alone, then the rest.

    SecantusDB's server uses an index only for a first stage without other conditions. MongoDB joins the stages.
    """
    field = next(iter(where), "_id")
    served: dict[str, Any] = {}
    for name in [field] if field == "_id" else INDEXES[f"{collection}.{field}"].fields:
        if name not in where:
            break
        served[name] = where[name]
        if isinstance(where[name], Mapping):  # no equality
            break
    rest = {name: condition for name, condition in where.items() if name not in served}
    return [{"$match": part} for part in (served, rest) if part]
