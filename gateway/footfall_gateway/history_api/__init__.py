"""The History REST API of Genesys Web Engagement 8.5: reads, writes, resources and cursors."""

from footfall_gateway.history_api.embedding import Embedder
from footfall_gateway.history_api.lookup import Lookup
from footfall_gateway.history_api.params import IdentityQuery
from footfall_gateway.history_api.reads import HistoryReads
from footfall_gateway.history_api.resources import (
    Event,
    Identity,
    Page,
    Session,
    UserAgent,
    Visit,
    event,
    identity,
    milliseconds,
    page,
    session,
    user_agent,
    visit,
)
from footfall_gateway.history_api.writes import HistoryWrites
