"""Beacons: from the connection to the collector, and back to the outcome of each event."""

from footfall_gateway.beacons.batcher import Bounds
from footfall_gateway.beacons.cors import Cors, RawHeaders
from footfall_gateway.beacons.description import BEACON_DESCRIPTION, NewEvent
from footfall_gateway.beacons.endpoint import PIXEL, BeaconEndpoint, Headers, Response, send_response, sender_of
from footfall_gateway.beacons.envelope import (
    BeaconError,
    BeaconEvent,
    Envelope,
    Rejection,
    TooManyEventsError,
    array_items,
    decode_beacon,
    to_int64,
    utf8_body,
    without_lone_surrogates,
)
from footfall_gateway.beacons.fast_path import beacon_protocol
from footfall_gateway.beacons.handshake import tls_protocol
from footfall_gateway.beacons.intake import Intake, Outcome, Sender, now_ms
from footfall_gateway.beacons.open_connections import LOOK_EVERY_S, OpenConnections
from footfall_gateway.beacons.rate_limit import SHARE_EVERY_S, Limits, RateLimiter
