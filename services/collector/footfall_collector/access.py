"""Which roles and scopes may call which methods of CollectorService."""

from footfall_servicekit.access import AccessTable

ACCESS: AccessTable = {"gateway": ["Collect", "RecordInteraction"], "contact-center": ["RecordInteraction"]}
SCOPES: AccessTable = {"ingest": ["Collect"], "contacts": ["RecordInteraction"]}
"""Those that an API key with each scope may call."""
