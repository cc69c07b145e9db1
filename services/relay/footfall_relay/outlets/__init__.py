"""Outlets: how messages leave. An outlet serves one partition of the event log."""

from footfall_relay.outlets.kinds import Refused, Sink, open_sink
