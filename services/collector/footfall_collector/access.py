"""Turns a client's role into the methods that it may call, where there is mutual TLS."""

from footfall_servicekit.access import AccessTable

ACCESS: AccessTable = {"gateway": ["Collect"]}
