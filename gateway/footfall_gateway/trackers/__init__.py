"""Trackers of other makers: the requests of their SDKs become beacons."""

from footfall_gateway.trackers.endpoint import TrackerEndpoint
