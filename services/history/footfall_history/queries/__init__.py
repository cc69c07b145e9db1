"""Reads what is stored: requests become filters and windows, and what they find becomes messages of the contract."""

from footfall_history.queries.export import Exporter
from footfall_history.queries.filters import (
    event_conditions,
    identity_conditions,
    identity_of,
    page_window,
    parent_of,
    point_to_next,
    session_conditions,
    uuid_of,
    visit_conditions,
    window,
)
from footfall_history.queries.reader import Reader
from footfall_history.queries.receipts import Receipts
from footfall_history.queries.related import Children
from footfall_history.queries.resources import association_message
from footfall_history.queries.user_agents import user_agent

__all__ = [
    "Children",
    "Exporter",
    "Reader",
    "Receipts",
    "association_message",
    "event_conditions",
    "identity_conditions",
    "identity_of",
    "page_window",
    "parent_of",
    "point_to_next",
    "session_conditions",
    "user_agent",
    "uuid_of",
    "visit_conditions",
    "window",
]
