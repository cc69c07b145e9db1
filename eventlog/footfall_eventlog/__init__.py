"""The event log in Redis: its partitions, its entries, and what all services know of an admitted event."""
