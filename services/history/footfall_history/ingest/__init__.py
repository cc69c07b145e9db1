"""From the log into MongoDB: events are stamped, stored once, and whatever cannot be, or costs much, is set aside."""
