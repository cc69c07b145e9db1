"""Which errors of a MongoDB server may pass, by their codes. It knows no driver: services catch the errors of theirs.

Every other code means that the command is wrong, and will fail again.
"""

from collections.abc import Mapping
from typing import Any, Final

# Names as in the server's list of error codes.
_TRANSIENT_CODES: Final[Mapping[str, int]] = {
    # The server or its network
    "HostUnreachable": 6,
    "HostNotFound": 7,
    "NetworkTimeout": 89,
    "ShutdownInProgress": 91,
    "SocketException": 9001,
    "InterruptedAtShutdown": 11600,
    # Another server becomes the primary
    "NotYetInitialized": 94,
    "FailedToSatisfyReadPreference": 133,
    "PrimarySteppedDown": 189,
    "ElectionInProgress": 216,
    "LegacyNotPrimary": 10058,
    "NotWritablePrimary": 10107,
    "InterruptedDueToReplStateChange": 11602,
    "NotPrimaryNoSecondaryOk": 13435,
    "NotPrimaryOrSecondary": 13436,
    # Not confirmed by enough servers
    "WriteConcernTimeout": 64,
    "UnsatisfiableWriteConcern": 100,
    # No room, or too much to do
    "TooManyFilesOpen": 264,
    "TemporarilyUnavailable": 365,
    "UserWritesBlocked": 371,
    "ResourceExhausted": 402,
    "PooledConnectionAcquisitionExceededTimeLimit": 407,
    "AdmissionQueueOverflow": 433,
    "RateLimitExceeded": 449,
    "OutOfDiskSpace": 14031,
    # Interrupted, or in the way of another operation
    "LockTimeout": 24,
    "CursorNotFound": 43,
    "LockBusy": 46,
    "MaxTimeMSExpired": 50,
    "LockFailed": 107,
    "WriteConflict": 112,
    "ConflictingOperationInProgress": 117,
    "QueryPlanKilled": 175,
    "CursorKilled": 237,
    "ExceededTimeLimit": 262,
    "IndexBuildAborted": 276,
    "IndexBuildAlreadyInProgress": 285,
    "InterruptedDueToStorageChange": 355,
    "Interrupted": 11601,
}
_CODES: Final = frozenset(_TRANSIENT_CODES.values())
# InternalError and UnknownError: the only ones of SecantusDB when its disk is full.
_FAULTS_OF_SERVER: Final = frozenset({1, 8})


def is_transient(error: Exception) -> bool:
    """Whether an error of a driver, which has `code` and `details` of the server's answer, may pass.

    Of a bulk write it is enough that one of its writes has such an error, or that it is not confirmed: what was written
    is found when the bulk write is repeated. A fault of the server may pass when it fails a whole command; when it
    fails one write of several, it may be due to that document.
    """
    details: Mapping[str, Any] = getattr(error, "details", None) or {}
    code = getattr(error, "code", None)
    codes = {code, *(each["code"] for each in details.get("writeErrors", ()))}
    return bool(details.get("writeConcernErrors")) or not codes.isdisjoint(_CODES) or code in _FAULTS_OF_SERVER
