"""What MongoDB holds of events and visits: its documents, the rules that make them, and the one file that asks it."""
