"""Queries over stored events and visits: from requests to filters, and from documents to messages of the contract."""

from footfall_history.queries.export import Exporter
from footfall_history.queries.filters import (
    event_conditions,
    identity_conditions,
    page_window,
    parse_identity_id,
    parse_parent,
    parse_uuid,
    session_conditions,
    visit_conditions,
    window,
    with_next_page,
    with_next_token,
)
from footfall_history.queries.reader import Reader
from footfall_history.queries.receipts import receipt
from footfall_history.queries.related import RelatedItems
from footfall_history.queries.resources import association_message
from footfall_history.queries.user_agents import user_agent
