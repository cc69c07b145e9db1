"""Footfall's own REST API."""
