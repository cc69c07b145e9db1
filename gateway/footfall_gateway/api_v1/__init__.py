"""Footfall's own REST API (`/api/v1`): visitors, contacts, privacy, receipts of events, and the live stream."""

from footfall_gateway.api_v1.contacts import ContactsApi
from footfall_gateway.api_v1.live import LiveApi
from footfall_gateway.api_v1.privacy import PrivacyApi
from footfall_gateway.api_v1.receipts import ReceiptsApi
from footfall_gateway.api_v1.visitors import VisitorsApi
