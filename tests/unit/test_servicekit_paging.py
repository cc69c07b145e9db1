"""Page tokens: back to the position they were made of, with the request they were made for and no other."""

import pytest
from footfall_servicekit.errors import RequestError
from footfall_servicekit.paging import decode, encode, fingerprint, fitting, page_size
from google.longrunning.operations_proto_pb2 import ListOperationsRequest  # type: ignore[import-untyped]  # ships none
from hypothesis import given
from hypothesis import strategies as st

REQUEST = b"8 bytes."


@given(st.text())
def test_a_token_leads_back_to_its_position(position: str) -> None:
    token = encode(position, REQUEST)
    assert decode(token, REQUEST) == position
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_token_is_the_first_page() -> None:
    assert decode("", REQUEST) is None


@given(st.text(min_size=1))
def test_what_is_no_token_of_ours_is_refused(token: str) -> None:
    with pytest.raises(RequestError, match="page_token"):
        decode(token, b"another.")


def test_a_token_is_good_for_its_own_request_whatever_the_page_and_its_size() -> None:
    first = ListOperationsRequest(name="a", filter="b", page_size=10)
    token = encode("position", fingerprint(first))
    following = ListOperationsRequest(name="a", filter="b", page_size=20, page_token=token)
    assert decode(token, fingerprint(following)) == "position"
    other = ListOperationsRequest(name="a", filter="c", page_token=token)
    with pytest.raises(RequestError, match="page_token"):
        decode(token, fingerprint(other))


@pytest.mark.parametrize(("requested", "given_size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000)])
def test_the_page_size_has_a_default_and_a_maximum(requested: int, given_size: int) -> None:
    assert page_size(requested) == given_size


@pytest.mark.parametrize(
    ("sizes", "fit"), [([], 0), ([10, 10], 2), ([3_000_000, 10], 1), ([1_000_000, 1_000_000, 1_000_000], 2)]
)
def test_a_page_holds_what_goes_into_one_message_and_at_least_one(sizes: list[int], fit: int) -> None:
    assert fitting([ListOperationsRequest(name="x" * size) for size in sizes]) == fit


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(RequestError, match="page_size"):
        page_size(-1)
