"""Turns the messages of StreamEvents into events, each once."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from footfall.history.v1.history_service_pb2 import (
    ListEventsRequest,
    ListEventsResponse,
    Scope,
    StreamEventsRequest,
    StreamEventsResponse,
)

from footfall_client.errors import FootfallError, PositionLostError
from footfall_client.resumption import Resumption

_PAGE_SIZE = 1_000


class EventStream(Resumption[StreamEventsRequest, StreamEventsResponse, StreamEventsResponse]):
    """A call of StreamEvents that is repeated. The last `remembered` events are not given again.

    When the position of a stream of one visit is lost, it begins with the oldest event in the log, and the events of
    the visit are listed. An event that is no longer in the log has been stored, so the list has it.
    """

    def __init__(self, request: StreamEventsRequest, remembered: int) -> None:
        super().__init__()
        self._request = StreamEventsRequest()
        self._request.CopyFrom(request)
        self._request.announce_progress = True
        self._remembered = remembered
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._is_behind = False

    def request(self) -> StreamEventsRequest:
        """The request of the next call."""
        return self._request

    def ended(self, error: FootfallError | None) -> float:
        """How long to wait before the next call, in seconds. Raises the error if the next call would end with it."""
        if isinstance(error, PositionLostError):
            if not self._request.visit_id:
                raise error
            self._request.resume_token = ""
            self._request.from_oldest = self._is_behind = True
        return super().ended(error)

    def _items(self, message: StreamEventsResponse) -> Iterable[StreamEventsResponse]:
        self._request.resume_token = message.resume_token
        return (message,) if message.HasField("event") and self._is_new(message) else ()

    def missed(self) -> ListEventsRequest | None:
        """What to list before the stream is read on; None: nothing."""
        if not self._is_behind:
            return None
        return ListEventsRequest(
            visit_id=self._request.visit_id,
            scope=Scope(site=self._request.site),
            sites=self._request.sites,
            json_as_text=self._request.json_as_text,
            page_size=_PAGE_SIZE,
        )

    def listed(self, page: ListEventsResponse) -> Iterator[StreamEventsResponse]:
        """The events of a page that are new."""
        for event in page.events:
            message = StreamEventsResponse(event=event)
            if self._is_new(message):
                yield message

    def has_listed(self) -> None:
        """Everything that was missed is listed."""
        self._is_behind = False

    def _is_new(self, message: StreamEventsResponse) -> bool:
        event = message.event.event
        key = event.visit_id, event.event_id
        is_new = key not in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > self._remembered:
            self._seen.popitem(last=False)
        return is_new
