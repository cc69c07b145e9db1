"""Merging updates of an interaction: the order and the number of updates do not matter."""

from functools import reduce
from typing import Any

from footfall.event.v1 import interaction_pb2
from footfall.event.v1.interaction_pb2 import InteractionUpdate
from footfall_history.storage.interactions import InteractionRecord
from hypothesis import given
from hypothesis import strategies as st

_TEXT = st.sampled_from(["", "a", "b"])
_MS = st.integers(1, 5)


def update(at_ms: int, *, start_ms: int | None = None, end_ms: int | None = None, **fields: Any) -> InteractionUpdate:
    made = InteractionUpdate(interaction_id="call-1", **{"contact_id": "c-1"} | fields)
    made.update_time.FromMilliseconds(at_ms)
    if start_ms is not None:
        made.start_time.FromMilliseconds(start_ms)
    if end_ms is not None:
        made.end_time.FromMilliseconds(end_ms)
    return made


def merged(*updates: InteractionUpdate) -> InteractionRecord:
    return reduce(InteractionRecord.merged, map(InteractionRecord.of, updates))


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


UPDATES = st.builds(
    lambda about, at_ms, start_ms, end_ms, channel, given: update(
        at_ms, start_ms=start_ms, end_ms=end_ms, channel=channel, **{about[0]: about[1]}, **given
    ),
    st.sampled_from([("contact_id", "c-1"), ("identity_id", "dana"), ("phone", "+4930123")]),
    _MS,
    optional(_MS),
    optional(_MS),
    st.sampled_from([0, interaction_pb2.INTERACTION_CHANNEL_VOICE, interaction_pb2.INTERACTION_CHANNEL_CHAT]),
    st.dictionaries(st.sampled_from(["agent", "queue", "disposition", "note"]), _TEXT),
).filter(lambda made: made.WhichOneof("about") is not None)


@given(st.lists(UPDATES, min_size=1, max_size=6), st.data())
def test_any_order_and_repeats_give_the_same_record(updates: list[InteractionUpdate], data: st.DataObject) -> None:
    again = data.draw(st.permutations([*updates, *data.draw(st.lists(st.sampled_from(updates), max_size=4))]))
    one, other = merged(*updates).document(""), merged(*again).document("")
    assert {**one, "rev": 0} == {**other, "rev": 0}


@given(st.lists(UPDATES, min_size=2, max_size=6), st.integers(1, 5))
def test_records_merge_as_their_updates_do(updates: list[InteractionUpdate], at: int) -> None:
    left, right = updates[: at % len(updates) or 1], updates[at % len(updates) or 1 :]
    together = merged(*left).merged(merged(*right)).document("")
    assert {**together, "rev": 0} == {**merged(*updates).document(""), "rev": 0}


def test_of_two_values_the_later_one_stays_and_what_is_not_given_is_kept() -> None:
    record = merged(
        update(20, note="later", queue="sales"), update(10, note="earlier", agent="anna"), update(30, agent="")
    )
    assert [record.get(name) for name in ("note", "queue", "agent")] == ["later", "sales", ""]
    assert (record.first_ms, record.update_ms) == (10, 30)


def test_another_subject_replaces_the_first() -> None:
    record = merged(update(20, visit_id="v", site="shop"), update(10, phone="+4930123"))
    assert [*record.about] == ["visit_id", "v", "", "shop"]
    document = record.document("")
    assert (document["subject"], document["site"]) == ("visit_id:v", "shop")


def test_without_a_reported_start_the_first_update_is_the_beginning() -> None:
    assert merged(update(20), update(10)).start_ms == 10
    assert merged(update(20, start_ms=15), update(10)).start_ms == 15


def test_an_update_that_is_known_changes_nothing() -> None:
    record = merged(update(20, note="a"), update(10))
    assert record.merged(InteractionRecord.of(update(20, note="a"))) is record


def test_a_record_is_read_as_it_was_stored() -> None:
    record = merged(update(20, note="a", data_json=b"{}", channel=1, start_ms=3, end_ms=9), update(10))
    assert InteractionRecord.from_document(record.document("")) == record
