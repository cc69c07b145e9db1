"""What cannot be stored: kept with its reason until somebody repairs, replays or discards it."""
