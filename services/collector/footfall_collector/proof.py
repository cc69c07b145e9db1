"""Turns the token of a SignIn into a verdict: whether the website's server says that this user signed in, here and now.

A token is a JWT signed with one of the site's keys: `sub` the user id, `aud` the site, `visitID` the visit, `iat` and
`exp`. It is judged once, at admission, against the time the request arrived, so reading the log again needs no key.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from footfall_timeline import normalize_uuid

Algorithm = Literal["HS256", "EdDSA"]
LEAST_SECRET_BYTES: Final = 32  # as long as HS256's output: RFC 7518, 3.2

_signatures = jwt.PyJWS(algorithms=["HS256", "EdDSA"])


class Verdict(StrEnum):
    """What a token, or its absence, says; the `assurance_reason` of the event. All but VALID prove nothing."""

    VALID = "token_valid"
    MISSING = "token_missing"
    FORGED = "token_forged"
    """It is no token, or none of the site's keys has signed it."""
    INCOMPLETE = "token_incomplete"
    """Signed, but a claim is missing or of the wrong type."""
    OTHER_SITE = "token_other_site"
    OTHER_VISIT = "token_other_visit"
    WRONG_SUBJECT = "token_wrong_subject"
    NOT_YET_VALID = "token_not_yet_valid"
    EXPIRED = "token_expired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key a site signs with. It verifies tokens of its own algorithm alone: no key can be taken for another kind."""

    key_id: str
    algorithm: Algorithm
    material: bytes | Ed25519PublicKey = field(repr=False)

    @classmethod
    def from_secret(cls, key_id: str, secret: str) -> "SigningKey":
        """Return an HS256 key. Raises ValueError when the secret is too short."""
        material = secret.encode()
        if len(material) < LEAST_SECRET_BYTES:
            raise ValueError(f"the secret must have at least {LEAST_SECRET_BYTES} bytes")
        return cls(key_id, "HS256", material)

    @classmethod
    def from_public_key(cls, key_id: str, pem: str) -> "SigningKey":
        """Return an EdDSA key. Raises ValueError when it is no Ed25519 public key in PEM form."""
        try:
            material = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            material = None
        if not isinstance(material, Ed25519PublicKey):
            # Its content is wrong, not its type.
            raise ValueError("the public key must be an Ed25519 public key in PEM form")  # noqa: TRY004
        return cls(key_id, "EdDSA", material)

    def payload_of(self, token: str) -> bytes | None:
        """Return what the token says if this key has signed it."""
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


_decode_claims = msgspec.json.Decoder(_Claims).decode


def judge(
    token: object,
    keys: Sequence[SigningKey],
    *,
    site: str,
    visit_id: str,
    user_id: str,
    received_ms: int,
    leeway_s: float,
) -> Verdict:
    """Judge the token of a SignIn that names `user_id` in a visit of a site with these keys.

    `leeway_s` is how far the clock of the website's server may be off.
    """
    if token is None:
        return Verdict.MISSING
    payload = _payload(token, keys) if isinstance(token, str) else None
    if payload is None:
        return Verdict.FORGED
    try:
        claims = _decode_claims(payload)
    except (ValueError, RecursionError):
        return Verdict.INCOMPLETE
    if site not in ([claims.aud] if isinstance(claims.aud, str) else claims.aud):
        return Verdict.OTHER_SITE
    if not _is_same_visit(claims.visit_id, visit_id):
        return Verdict.OTHER_VISIT
    if claims.sub != user_id:
        return Verdict.WRONG_SUBJECT
    received_s = received_ms / 1000
    if max(claims.iat, claims.nbf or 0) > received_s + leeway_s:
        return Verdict.NOT_YET_VALID
    return Verdict.VALID if received_s < claims.exp + leeway_s else Verdict.EXPIRED


def _payload(token: str, keys: Iterable[SigningKey]) -> bytes | None:
    """What the token says, if a key with its key id, or any key when it names none, has signed it."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        return None
    key_id = header.get("kid")
    candidates = (key for key in keys if key_id in {None, key.key_id})
    return next((payload for key in candidates if (payload := key.payload_of(token)) is not None), None)


def _is_same_visit(claimed: str, visit_id: str) -> bool:
    try:
        return normalize_uuid(claimed) == visit_id
    except ValueError:
        return False
