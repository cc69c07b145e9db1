"""When a stream is called again after it has ended, and with which request."""

import logging
import random
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from footfall_client.errors import FootfallError

Request = TypeVar("Request")
Message = TypeVar("Message")
Item = TypeVar("Item")

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0

_logger: Final = logging.getLogger("footfall_client")


class Resumption(Generic[Request, Message, Item]):
    """A stream that goes on. It does no calls: both clients ask it what to call, and report what has come."""

    def __init__(self) -> None:
        self._failures = 0

    def request(self) -> Request:
        """The request of the next call."""
        raise NotImplementedError

    def received(self, message: Message) -> Iterable[Item]:
        """What the caller gets for a message."""
        self._failures = 0
        return self._items(message)

    def _items(self, message: Message) -> Iterable[Item]:
        raise NotImplementedError

    def ended(self, error: FootfallError | None) -> float:
        """How long to wait before the next call, in seconds. Raises the error if the next call would end with it."""
        if error is not None and error.is_lasting:
            raise error
        if not self._failures:
            _logger.warning("The stream has ended (%s) and is called again.", error or "without an error")
        self._failures += 1
        pause: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failures, 10))
        least = error.retry_after_s if error is not None and error.retry_after_s is not None else 0.0
        return max(least, pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that clients do not come together
