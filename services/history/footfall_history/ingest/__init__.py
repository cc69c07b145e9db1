"""Stores events from the event log once each, with their attribution."""

from footfall_history.ingest.attribution import Attributor, EffortLimit
from footfall_history.ingest.consumer import LogConsumer
from footfall_history.ingest.interactions import InteractionWriter
from footfall_history.ingest.slow_visits import SlowVisits
