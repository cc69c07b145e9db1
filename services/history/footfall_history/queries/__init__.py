"""Queries over stored events and visits: from requests to filters, and from documents to messages of the contract."""

from footfall_history.queries.attributions import Attributions
from footfall_history.queries.customer_context import CustomerContexts
from footfall_history.queries.export import Exporter
from footfall_history.queries.filters import (
    Page,
    event_conditions,
    identity_conditions,
    page_window,
    parse_contact_id,
    parse_identity_id,
    parse_moment,
    parse_parent,
    parse_uuid,
    session_conditions,
    site_filter,
    time_ms,
    visit_conditions,
    window,
    with_next_page,
    with_next_token,
)
from footfall_history.queries.interactions import InteractionReader, interactions_window, parse_interaction_id
from footfall_history.queries.live_visits import LiveVisits
from footfall_history.queries.reader import Reader
from footfall_history.queries.receipts import receipt
from footfall_history.queries.related import RelatedItems
from footfall_history.queries.resources import association_message, event_key, page_key, set_attribution
from footfall_history.queries.user_agents import user_agent
