"""Changes that an operator can make to a dead letter."""

import json
from typing import Any

import pytest
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_history.dead_letters import repair
from footfall_history.dead_letters.repair import RepairError

from tests.tools.batches import batch, new_uuid
from tests.tools.history import logged
from tests.tools.visits import event, now_ms


def dead_letter(name: str = "SignIn", user: str | None = "dana", **fields: Any) -> EventBatch:
    return batch(logged(event(name, new_uuid(), now_ms(), user, data={"mail": "d@shop.example"}), **fields))


def with_changes(old: EventBatch, *drop: str, **changes: str) -> EventBatch:
    new = batch(repair.changed(old.events[0], changes, [*drop]), contexts=list(old.contexts))
    repair.check_change(old, new)
    return new


def test_only_fields_about_no_person_are_shown_by_default() -> None:
    [sent] = dead_letter().events
    assert set(json.loads(repair.to_json(sent, is_whole=False))) == {
        "visit_id",
        "event_id",
        "event_name",
        "site",
        "event_time_ms",
        "transition",
        "assurance",
    }


def test_all_fields_shown_are_read_back_as_the_same_event() -> None:
    [sent] = dead_letter().events
    sent.data_json = b'{"price": 12.50, "price": 1e3}'  # kept verbatim
    shown = repair.to_json(sent, is_whole=True)
    assert b'"data":' in shown
    again = repair.from_json(shown)
    assert json.loads(again.data_json) == json.loads(sent.data_json)
    again.data_json = sent.data_json
    assert again == sent


def test_fields_are_set_and_removed_and_others_stay_byte_for_byte() -> None:
    old = dead_letter("AddToCart", None)
    old.events[0].data_json = b'{ "sku":"A-1" }'
    [new] = with_changes(old, "url", category="cars", timestamp_ms="12").events
    assert (new.category, new.timestamp_ms, new.url, new.data_json) == ("cars", 12, "", b'{ "sku":"A-1" }')
    [new] = with_changes(old, data='{"sku": 1.50}').events
    assert new.data_json == b'{"sku": 1.50}'
    assert with_changes(old, "data").events[0].data_json == b""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visit_id": "SHOUTED"}, "visit_id: must be a UUID"),
        ({"event_time_ms": "0"}, "event_time_ms: must be 1 to"),
        ({"identity_id": '""'}, "identity_id: must be 1 to 512"),
        ({"data": "[1]"}, "no JSON object"),
        ({"data": "{"}, "no JSON object"),
        ({"colour": "1"}, "colour"),
        ({"transition": "9"}, "known to this version"),
        ({"timestamp_ms": "dana@shop.example"}, "^timestamp_ms: is no value of this field$"),
    ],
)
def test_a_change_that_cannot_be_stored_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(RepairError, match=words):
        with_changes(dead_letter(), **changes)
    with pytest.raises(RepairError, match="no JSON object"):
        repair.from_json(b"[]")


def test_ids_and_transition_of_an_event_that_identity_has_read_cannot_be_changed() -> None:
    fit, unfit = dead_letter(), dead_letter(transition=9)
    for change in ({"event_id": new_uuid()}, {"identity_id": "ann"}, {"event_time_ms": "1767606012466"}):
        with pytest.raises(RepairError, match="identity has read it"):
            with_changes(fit, **change)
        assert isinstance(with_changes(unfit, transition="TRANSITION_KIND_SIGN_IN", **change).events[0], Event)
    assert with_changes(fit, event_name="Login").events[0].event_name == "Login"
