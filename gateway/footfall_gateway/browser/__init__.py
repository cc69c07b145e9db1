"""What browsers load, and ask for besides beacons."""
