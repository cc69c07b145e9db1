"""The collector service: admits events, normalises them and appends them to the event log."""
