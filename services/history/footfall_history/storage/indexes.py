"""The indexes of history's collections."""

from typing import Any, Final

Index = tuple[list[tuple[str, int]], dict[str, Any]]
"""Fields with their direction, and options of the index."""


def _index(*fields: str, **options: Any) -> Index:
    return [(field, 1) for field in fields], options


INDEXES: Final[dict[str, list[Index]]] = {
    "events": [
        # Events of a visit in order; ranges to be attributed again.
        _index("visit_id", "order_key"),
        # Events of an identity in order. Most events have no identity and stay out of it.
        _index("identity_id", "order_key", partialFilterExpression={"identity_id": {"$gt": ""}}),
        # Events that name an identity to be erased.
        _index("names_hash", partialFilterExpression={"names_hash": {"$gt": ""}}),
        # A page with its events in order.
        _index("page_id", "order_key"),
        # An event by its id alone: the first received.
        _index("event_id", "received_ms"),
    ],
    "visits": [
        # Visits in order, of all sites or of one; expired visits.
        _index("start_key"),
        _index("site", "start_key"),
        # Visits of an identity, a device or a user agent, in order.
        _index("identities", "start_key"),
        _index("global_visit_id", "start_key"),
        _index("user_agent", "start_key"),
        # The visit of a session.
        _index("session_ids"),
        # Visits of an identity to be erased, by its keyed hash.
        _index("identity_hashes"),
    ],
}
"""By collection, all but those on `_id`. Each costs SecantusDB about 50 µs per document written."""
