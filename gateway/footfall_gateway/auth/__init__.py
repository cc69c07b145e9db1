"""Authentication and authorization: API keys, the API user, sessions, and the hashed ids of the audit log."""

from footfall_eventlog.keys import Key, KeyFile, KeyScope, KeysFileError, check_keys_file, new_token

from footfall_gateway.auth.audit import Audit
from footfall_gateway.auth.authenticator import EVERYBODY, Authenticator, Principal
from footfall_gateway.auth.keys import is_slow_hash
from footfall_gateway.auth.sessions import SESSION_HEADER, Sessions, session_cookie, session_token
