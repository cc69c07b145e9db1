"""Turns the Authorization header into who is asking and what they may do."""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum

from footfall_gateway.problem import Problem
from footfall_gateway.settings import GatewaySettings


class Scope(StrEnum):
    """What a client may be allowed to do."""

    READ = "read"
    CONTACTS = "contacts"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking."""

    name: str
    scopes: frozenset[Scope]


EVERYBODY = Principal("everybody", frozenset(Scope))

_CHALLENGE = 'Basic realm="Footfall", charset="UTF-8"'


class Authenticator:
    """Knows the credentials of this deployment."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._is_open = settings.open_api
        self._user = settings.api_user
        self._digest = _digest(settings.api_user, settings.api_password.get_secret_value()) if self._user else None

    def authenticate(self, authorization: str) -> Principal:
        """Who holds the credentials in this header.

        Raises:
            Problem: 401, they are missing or wrong.

        """
        if self._is_open:
            return EVERYBODY
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "basic" and self._digest:
            user, password = _basic(credentials.strip())
            # Digests have one length, so that the comparison tells nothing, not even the length.
            if hmac.compare_digest(_digest(user, password), self._digest):
                return Principal(self._user, frozenset(Scope))
        raise Problem(401, "credentials are missing or wrong", www_authenticate=_CHALLENGE)


def _basic(credentials: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password


def _digest(user: str, password: str) -> bytes:
    return hashlib.sha256(f"{user}:{password}".encode()).digest()
