"""Calls Footfall from a contact center's services: `Footfall` for threads, `AsyncFootfall` for asyncio."""

from footfall_client.asynchronous import AsyncFootfall
from footfall_client.blocking import Footfall
from footfall_client.connection import SERVICE_CONFIG, Tls, Token
from footfall_client.errors import (
    ConflictError,
    DeadlineError,
    FootfallError,
    InvalidRequestError,
    LimitError,
    NotAllowedError,
    NotFoundError,
    PositionLostError,
    PreconditionError,
    UnavailableError,
    Violation,
    error_of,
)
from footfall_client.visitors import LiveChange

__all__ = [
    "SERVICE_CONFIG",
    "AsyncFootfall",
    "ConflictError",
    "DeadlineError",
    "Footfall",
    "FootfallError",
    "InvalidRequestError",
    "LimitError",
    "LiveChange",
    "NotAllowedError",
    "NotFoundError",
    "PositionLostError",
    "PreconditionError",
    "Tls",
    "Token",
    "UnavailableError",
    "Violation",
    "error_of",
]
