"""Cursors: the documented form, for every identity id."""

import pytest
from footfall.history.v1.history_service_pb2 import Position
from footfall_gateway.history_api.cursors import format_cursor, parse_cursor
from footfall_gateway.problem import Problem
from hypothesis import given
from hypothesis import strategies as st

ITEM = Position(time_ms=1354798334842, id="c2994560-3fa3-11e2-aee5-00505625a04f")


def test_a_cursor_looks_like_the_documented_one() -> None:
    assert format_cursor("user@genesyslab.com", ITEM) == (
        "user@genesyslab.com#1354798334842#c2994560-3fa3-11e2-aee5-00505625a04f"
    )


@given(st.text(min_size=1).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_any_identity_id_comes_back_from_a_header(identity_id: str) -> None:
    value = format_cursor(identity_id, ITEM)
    assert value.isascii()
    assert value.isprintable()
    assert parse_cursor(identity_id, value) == ITEM


def test_an_empty_cursor_is_the_beginning() -> None:
    assert parse_cursor("dana", "") is None


@pytest.mark.parametrize(
    "page_start",
    [
        "x",
        "dana",
        "dana#1",
        "dana#x#c2994560-3fa3-11e2-aee5-00505625a04f",
        "dana#-1#c2994560-3fa3-11e2-aee5-00505625a04f",
        "dana#1#c2994560",
        "dan#1#c2994560-3fa3-11e2-aee5-00505625a04f",
        "dana#99999999999999999999#c2994560-3fa3-11e2-aee5-00505625a04f",
    ],
)
def test_a_cursor_of_another_collection_is_refused_by_its_name(page_start: str) -> None:
    with pytest.raises(Problem, match="page_start") as refused:
        parse_cursor("dana", page_start)
    assert refused.value.status == 400
