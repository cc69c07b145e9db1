"""Admits events, normalises them and appends them to the log."""
