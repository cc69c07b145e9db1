"""Who is asking, and what they may do: API keys, passwords, and what log lines may say of whom a request is about."""

from footfall_gateway.auth.audit import Audit
from footfall_gateway.auth.authenticator import EVERYBODY, Authenticator, Principal
from footfall_gateway.auth.keys import (
    Key,
    KeyFile,
    KeysFileError,
    NoSuchKeyError,
    Scope,
    check_keys_file,
    is_slow,
    new_token,
)

__all__ = [
    "EVERYBODY", "Audit", "Authenticator", "Key", "KeyFile", "KeysFileError", "NoSuchKeyError", "Principal", "Scope",
    "check_keys_file", "is_slow", "new_token",
]  # fmt: skip
