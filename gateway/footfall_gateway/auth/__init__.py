"""Authentication and authorization: API keys, the API user, and the hashed ids of the audit log."""

from footfall_gateway.auth.audit import Audit
from footfall_gateway.auth.authenticator import EVERYBODY, Authenticator, Principal
from footfall_gateway.auth.keys import (
    Key,
    KeyFile,
    KeyScope,
    KeysFileError,
    check_keys_file,
    is_slow_hash,
    new_token,
)
