"""Footfall's own REST API: visitors and their numbers, contacts, interactions, privacy, quality, live, health, ..."""

from footfall_gateway.api_v1.attention import AttentionApi
from footfall_gateway.api_v1.contacts import ContactsApi
from footfall_gateway.api_v1.context import ContextApi
from footfall_gateway.api_v1.counts import CountsApi
from footfall_gateway.api_v1.doubts import DoubtsApi
from footfall_gateway.api_v1.health import HealthApi
from footfall_gateway.api_v1.interactions import InteractionsApi
from footfall_gateway.api_v1.live import LiveApi
from footfall_gateway.api_v1.privacy import PrivacyApi
from footfall_gateway.api_v1.quality import QualityApi
from footfall_gateway.api_v1.receipts import ReceiptsApi
from footfall_gateway.api_v1.session import SessionApi
from footfall_gateway.api_v1.sharing import SharingApi
from footfall_gateway.api_v1.visitors import VisitorsApi
