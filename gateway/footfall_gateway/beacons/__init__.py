"""Events on their way to the collector: from a connection, or a POST of the History API, to what became of each."""

from footfall_gateway.beacons.connection import LOOK_EVERY_S, BoundedConnection, cut_off_slow_clients
from footfall_gateway.beacons.cors import Cors, RawHeaders
from footfall_gateway.beacons.description import BEACON_DESCRIPTION
from footfall_gateway.beacons.endpoint import BeaconEndpoint
from footfall_gateway.beacons.envelope import BeaconError, BeaconEvent, Envelope, fitting, read
from footfall_gateway.beacons.fast_path import beacon_protocol
from footfall_gateway.beacons.group_commit import Bounds
from footfall_gateway.beacons.intake import Intake, Sender, now_ms
from footfall_gateway.beacons.rate_limit import SHARE_EVERY_S, Limits, RateLimiter

__all__ = [
    "BEACON_DESCRIPTION", "LOOK_EVERY_S", "SHARE_EVERY_S", "BeaconEndpoint", "BeaconError",
    "BeaconEvent", "BoundedConnection", "Bounds", "Cors", "Envelope", "Intake", "Limits", "RateLimiter", "RawHeaders",
    "Sender", "beacon_protocol", "cut_off_slow_clients", "fitting", "now_ms", "read",
]  # fmt: skip
