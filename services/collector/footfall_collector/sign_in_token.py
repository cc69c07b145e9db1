"""Verification of sign-in tokens, by which a website's server proves who has signed in on a visit.

A token is a JWT signed with one of the site's keys: `sub` the user id, `aud` the site, `visitID` the visit. `iat` and
`exp` are required. It is verified once, at admission, by the collector's clock, so readers of the log need no keys.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from footfall_eventlog.events import MAX_IDENTITY_LENGTH
from footfall_timeline import normalize_uuid

Algorithm = Literal["HS256", "EdDSA"]
MIN_SECRET_BYTES: Final = 32  # as long as HS256's output: RFC 7518, 3.2
MAX_CLAIM_LENGTH: Final = 256
"""Length of a claim about the person; a longer one is ignored."""
_TOKEN_ID_BYTES: Final = 8

_signatures = jwt.PyJWS(algorithms=["HS256", "EdDSA"])


class TokenVerdict(StrEnum):
    """The result of the verification, stored as `assurance_reason` of the event. Only VALID proves the sign-in."""

    VALID = "token_valid"
    MISSING = "token_missing"
    FORGED = "token_forged"
    """It is not a JWT, or none of the site's keys has signed it."""
    INCOMPLETE = "token_incomplete"
    """Signed, but a claim is missing or of the wrong type."""
    OTHER_SITE = "token_other_site"
    OTHER_VISIT = "token_other_visit"
    WRONG_SUBJECT = "token_wrong_subject"
    NOT_YET_VALID = "token_not_yet_valid"
    EXPIRED = "token_expired"
    LONG_LIVED = "token_long_lived"
    """The time from `iat` to `exp` is longer than `TokenRules.max_lifetime_s`."""
    ISSUED_LATER = "token_issued_later"
    """The event is older than the token by more than `TokenRules.max_predating_s`."""


class TokenProof(NamedTuple):
    """A verdict, and for a VALID token the user id and attributes that it proves.

    `attributes` is a JSON object of the verified claims about the person, or b"". `token_id` identifies the token by
    its payload: another encoding of the same payload has the same id.
    """

    verdict: TokenVerdict
    user_id: str = ""
    attributes: bytes = b""
    token_id: str = ""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Limits for tokens, in seconds.

    - `leeway_s`: largest error of the clock of the website's server.
    - `max_lifetime_s`: longest time from `iat` to `exp`.
    - `max_predating_s`: longest time that an event may precede the `iat` of its token, by the browser's clock.
    """

    leeway_s: float = 30
    max_lifetime_s: float = 3_600
    max_predating_s: float = 300


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of a site. It verifies only tokens of its own algorithm, which prevents key confusion."""

    key_id: str
    algorithm: Algorithm
    material: bytes | Ed25519PublicKey = field(repr=False)

    @classmethod
    def from_secret(cls, key_id: str, secret: str) -> "SigningKey":
        """Return an HS256 key. Raises ValueError when the secret is too short."""
        material = secret.encode()
        if len(material) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret must have at least {MIN_SECRET_BYTES} bytes")
        return cls(key_id, "HS256", material)

    @classmethod
    def from_public_key(cls, key_id: str, pem: str) -> "SigningKey":
        """Return an EdDSA key. Raises ValueError when it is no Ed25519 public key in PEM form."""
        try:
            material = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            material = None
        if not isinstance(material, Ed25519PublicKey):
            raise ValueError("the public key must be an Ed25519 public key in PEM form")  # noqa: TRY004  # a value error
        return cls(key_id, "EdDSA", material)

    def verified_payload(self, token: str) -> bytes | None:
        """Return the payload of a token that this key has signed, else None."""
        try:
            payload: bytes = _signatures.decode_complete(token, self.material, algorithms=[self.algorithm])["payload"]
        except jwt.PyJWTError:
            return None
        return payload


class _Claims(msgspec.Struct):
    sub: str
    aud: str | list[str]
    visit_id: str = msgspec.field(name="visitID")
    exp: float
    iat: float
    nbf: float | None = None
    # Claims about the person (OpenID Connect Core, 5.1). A claim of a wrong type is ignored.
    email: Any = None
    email_verified: Any = None
    phone_number: Any = None
    phone_number_verified: Any = None
    given_name: Any = None
    family_name: Any = None

    def attributes(self) -> dict[str, str]:
        """Return the claims that the website's server vouches for, without unverified addresses and numbers."""
        given = {"given_name": self.given_name, "family_name": self.family_name}
        if self.email_verified is True:
            given["email"] = self.email
        if self.phone_number_verified is not False:  # many servers do not verify numbers and leave it out
            given["phone_number"] = self.phone_number
        return {
            name: text for name, text in given.items() if isinstance(text, str) and 1 <= len(text) <= MAX_CLAIM_LENGTH
        }


_decode_claims = msgspec.json.Decoder(_Claims).decode


def verify_token(
    token: object,
    keys: Sequence[SigningKey],
    *,
    site: str,
    visit_id: str,
    user_id: str,
    happened_ms: int,
    now_ms: int,
    rules: TokenRules,
) -> TokenProof:
    """Verify the token of a SignIn. `user_id` "": the event names no user id, so the `sub` of the token counts."""
    if token is None:
        return TokenProof(TokenVerdict.MISSING)
    payload = _payload(token, keys) if isinstance(token, str) else None
    if payload is None:
        return TokenProof(TokenVerdict.FORGED)
    try:
        claims = _decode_claims(payload)
    except (ValueError, RecursionError):
        return TokenProof(TokenVerdict.INCOMPLETE)
    verdict = _wrong_claim(claims, site, visit_id, user_id) or _wrong_time(
        claims, happened_ms / 1000, now_ms / 1000, rules
    )
    if verdict:
        return TokenProof(verdict)
    attributes = claims.attributes()
    token_id = hashlib.blake2b(payload, digest_size=_TOKEN_ID_BYTES).hexdigest()
    return TokenProof(TokenVerdict.VALID, claims.sub, msgspec.json.encode(attributes) if attributes else b"", token_id)


def _wrong_claim(claims: _Claims, site: str, visit_id: str, user_id: str) -> TokenVerdict | None:
    if site not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        return TokenVerdict.OTHER_SITE
    if not _is_same_visit(claims.visit_id, visit_id):
        return TokenVerdict.OTHER_VISIT
    if not user_id:
        return None if 1 <= len(claims.sub) <= MAX_IDENTITY_LENGTH else TokenVerdict.WRONG_SUBJECT
    return TokenVerdict.WRONG_SUBJECT if claims.sub != user_id else None


def _wrong_time(claims: _Claims, happened_s: float, now_s: float, rules: TokenRules) -> TokenVerdict | None:
    if max(claims.iat, claims.nbf or 0) > now_s + rules.leeway_s:
        return TokenVerdict.NOT_YET_VALID
    if now_s >= claims.exp + rules.leeway_s:
        return TokenVerdict.EXPIRED
    if claims.exp - claims.iat > rules.max_lifetime_s:
        return TokenVerdict.LONG_LIVED
    return TokenVerdict.ISSUED_LATER if happened_s < claims.iat - rules.max_predating_s else None


def _payload(token: str, keys: Iterable[SigningKey]) -> bytes | None:
    """Return the payload if the key that `kid` names has signed the token; without `kid`, any key will do."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None
    key_id = header.get("kid")
    candidates = (key for key in keys if key_id in {None, key.key_id})
    return next((payload for key in candidates if (payload := key.verified_payload(token)) is not None), None)


def _is_same_visit(claim: str, visit_id: str) -> bool:
    try:
        return normalize_uuid(claim) == visit_id
    except ValueError:
        return False
