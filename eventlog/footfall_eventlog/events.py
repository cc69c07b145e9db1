"""What all services know of events: names of system events, the kinds of transitions, and limits."""

from typing import Final

from footfall.event.v1 import event_pb2

VISIT_STARTED: Final = "VisitStarted"
PAGE_ENTERED: Final = "PageEntered"
PAGE_EXITED: Final = "PageExited"
SIGN_IN: Final = "SignIn"
SIGN_OUT: Final = "SignOut"
USER_INFO: Final = "UserInfo"

TRANSITION_KINDS: Final = {
    USER_INFO: event_pb2.TRANSITION_KIND_USER_INFO,
    SIGN_IN: event_pb2.TRANSITION_KIND_SIGN_IN,
    SIGN_OUT: event_pb2.TRANSITION_KIND_SIGN_OUT,
}
"""The events that change who the visitor is, by name."""
SYSTEM_EVENTS: Final = frozenset({VISIT_STARTED, PAGE_ENTERED, PAGE_EXITED, *TRANSITION_KINDS})
"""The events that the tracker sends by itself. All others are business events of the website."""

HEARTBEAT: Final = "Heartbeat"
"""The business event that the tracker sends while a page is read, if the page asks for it."""

USER_ID: Final = "userID"
USER_ID_KEYS: Final = (USER_ID, "userId", "userid", "username", "email")
"""The keys of `data` that usually name the user, in the order in which they are read."""

MAX_EVENTS: Final = 1_000
"""Events in one batch or beacon."""
MAX_BATCH_BYTES: Final = 1024 * 1024
"""All events of one batch, or the body of one beacon."""
MAX_EVENT_BYTES: Final = 64 * 1024
MAX_EVENT_NAME_LENGTH: Final = 256
MAX_PAGE_ID_LENGTH: Final = 128
MAX_URL_LENGTH: Final = 8_192
MAX_CATEGORY_LENGTH: Final = 1_024
MAX_LANGUAGE_CODE_LENGTH: Final = 64
MAX_DATA_DEPTH: Final = 32
MAX_DATA_KEYS: Final = 1_000
MAX_DATA_KEY_LENGTH: Final = 256
MAX_TIMESTAMP_MS: Final = 253_402_300_799_999
"""The last timestamp of a sender: the end of the year 9999."""
MAX_EVENT_TIME_MS: Final = 10**13 - 1
"""The last event time: order keys have 13 digits for it."""
MAX_IDENTITY_LENGTH: Final = 512
"""Characters of an identity, which is a user id of a website."""
