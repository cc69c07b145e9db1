"""The HTTP gateway of Footfall: beacons, the History REST API, /api/v1, the tracking script."""
