"""The devices on which events have named an identity, by day, regardless of the order and repetition of events.

A device is the browser's `global_visit_id`. Only a hash of it together with the identity is kept: it distinguishes the
devices of one identity, and finds neither their visits nor the same device at another identity.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec

DAY_MS: Final = 86_400_000
MAX_DAYS: Final = 8
"""The latest days with events that are kept: one more than the collector accepts late events by default."""
MAX_COUNTED: Final = 101
"""Devices of a day that are kept. One more than the largest limit, so it is known whether a limit is exceeded."""
FEW: Final = 2
"""No limit is lower. So many devices on a day need not be compared with one."""

_HASH_BYTES: Final = 6


class DeviceDay(msgspec.Struct, frozen=True):
    """The devices of a day in UTC, as days since 1970-01-01: the least of their hashes, sorted."""

    day: int
    devices: tuple[str, ...]


def device_day(identity: str, global_visit_id: str, at_ms: int) -> DeviceDay | None:
    """Return the device of one event; None for an event without one."""
    if not global_visit_id:
        return None
    text = f"{identity}\n{global_visit_id}"
    return DeviceDay(at_ms // DAY_MS, (blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest(),))


def merged_days(*parts: Iterable[DeviceDay]) -> tuple[DeviceDay, ...]:
    """Return the latest days, each with the devices of all parts.

    The result does not depend on the order of merging: what is dropped, enough later days or lesser hashes replace
    permanently.
    """
    by_day: dict[int, set[str]] = {}
    for days in parts:
        for one in days:
            by_day.setdefault(one.day, set()).update(one.devices)
    latest = sorted(by_day)[-MAX_DAYS:]
    return tuple(DeviceDay(day, tuple(sorted(by_day[day])[:MAX_COUNTED])) for day in latest)


def most_devices(days: Iterable[DeviceDay]) -> int:
    """Return the number of devices on the day with most; 0 if they are few on each."""
    most = max((len(one.devices) for one in days), default=0)
    return most if most > FEW else 0
