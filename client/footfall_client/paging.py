"""The request of the next page of a list."""

from copy import deepcopy
from typing import Protocol, TypeVar


class PagedRequest(Protocol):
    """A request of a list."""

    page_token: str


class PagedResponse(Protocol):
    """A page of a list."""

    next_page_token: str


AnyRequest = TypeVar("AnyRequest", bound=PagedRequest)
AnyResponse = TypeVar("AnyResponse", bound=PagedResponse)


def next_request(request: AnyRequest, page: PagedResponse) -> AnyRequest | None:
    """A copy of a request for what follows a page; None after the last page."""
    if not page.next_page_token:
        return None
    following = deepcopy(request)
    following.page_token = page.next_page_token
    return following
