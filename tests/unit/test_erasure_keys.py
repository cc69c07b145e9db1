"""The values of ERASURE_KEY: which hash, mark and seal an identity has before a change of the key, and after it."""

import pytest
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_timeline import identity_hash

FIRST, SECOND, THIRD = (f"{name} key of some length" for name in ("first", "second", "third"))


def keys(*values: str) -> ErasureKeys:
    return ErasureKeys(",".join(values))


def test_without_a_change_a_mark_is_the_hash() -> None:
    one = keys(FIRST)
    hashed = one.hash("ann")
    assert hashed == identity_hash(FIRST, "ann").hex()
    assert (one.mark(hashed), one.sealed(hashed), one.opened(hashed, "")) == (hashed, "", hashed)
    assert one.check == identity_hash(FIRST, "").hex()[:16], "that of tombstones of earlier versions"
    assert not keys("")
    assert keys("").check == ""


def test_after_a_change_the_hash_stays_and_is_known_with_the_new_value_only() -> None:
    before, after = keys(FIRST), keys(SECOND, FIRST)
    hashed = after.hash("ann")
    assert hashed == before.hash("ann")
    assert after.subject_hash("phone", "+491") == before.subject_hash("phone", "+491")
    mark, sealed = after.mark(hashed), after.sealed(hashed)
    assert len({hashed, mark, sealed, keys(THIRD, FIRST).mark(hashed)}) == 4
    assert after.opened(mark, sealed) == hashed
    assert keys(THIRD, FIRST).opened(mark, sealed) != hashed
    assert len({each.sealed(each.hash(name)) for name in ("ann", "bob") for each in (after, keys(THIRD, FIRST))}) == 4


def test_values_in_the_middle_are_those_of_former_keys() -> None:
    assert keys(THIRD, SECOND, FIRST).check == keys(THIRD, FIRST).check
    assert len({each.check for each in (keys(FIRST), keys(SECOND, FIRST), keys(THIRD, FIRST), keys(THIRD))}) == 4
    former = [each.check for each in keys(THIRD, SECOND, FIRST).former()]
    assert former == [keys(SECOND, FIRST).check, keys(FIRST).check]
    assert [*keys(FIRST).former()] == []


@pytest.mark.parametrize("name", ["", "ann", "x" * 10_000])
def test_what_is_sealed_can_be_opened(name: str) -> None:
    two = keys(SECOND, FIRST)
    assert two.opened(two.mark(two.hash(name)), two.sealed(two.hash(name))) == two.hash(name)
