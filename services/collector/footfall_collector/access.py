"""Which roles may call which methods of CollectorService, under mutual TLS."""

from footfall_servicekit.access import AccessTable

ACCESS: AccessTable = {"gateway": ["Collect", "RecordInteraction"], "contact-center": ["RecordInteraction"]}
