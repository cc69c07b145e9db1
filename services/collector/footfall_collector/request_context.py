"""The context of a request: what admission needs of it, and the part of it that the log may keep."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import EventContext
from footfall_eventlog.staff import StaffRules
from ua_parser import Device, Parser
from ua_parser.basic import Resolver
from ua_parser.core import Matcher
from ua_parser_builtins.lazy import MATCHERS

MAX_USER_AGENT_LENGTH: Final = 1_024
_ROBOT_SEARCH_LENGTH: Final = (
    256  # robots name themselves within it; the cost of the patterns grows faster than the text
)
_ROBOT: Final = "Spider"  # the device family of every robot in ua-parser's data
NO_STAFF: Final = StaffRules()

_robot_patterns = tuple(matcher for matcher in MATCHERS[2] if matcher.family == _ROBOT)
_devices: list[Matcher[Device]] = list(MATCHERS[2])
_parser = Parser(Resolver(([], [], _devices)))
for _matcher in MATCHERS[2]:
    _ = _matcher.pattern  # compiled now, not while a call waits; those of browsers and systems never are


class RequestContext(NamedTuple):
    """What admission needs of a request. `sent_ms` is the sender's clock when it sent the request, 0 if unknown.

    `staff_reason` says why all of its events are those of staff; 0: only their sites may say so.
    """

    received_ms: int
    sent_ms: int
    site: str
    origin: str
    user_agent: str
    is_robot: bool
    sends_gpc: bool
    keeps_times: bool = False
    staff_reason: event_pb2.StaffReason.ValueType = event_pb2.STAFF_REASON_UNSPECIFIED


def minimize_context(
    context: EventContext, now_ms: int, tolerance_ms: int | None, staff: StaffRules = NO_STAFF
) -> RequestContext:
    """Reduce a context, in place, to what the log may keep, and return what admission needs of the original.

    A context without a receive time gets `now_ms`. A receive time is limited to `now_ms` ± `tolerance_ms` (None: no
    limit). The user agent and the address are truncated; site, origin, privacy signal, trust in times and mark of staff
    are removed.
    """
    if not context.received_time_ms:
        context.received_time_ms = now_ms
    if tolerance_ms is not None:
        earliest_ms, latest_ms = now_ms - tolerance_ms, now_ms + tolerance_ms
        context.received_time_ms = min(max(context.received_time_ms, earliest_ms), latest_ms)
    user_agent = context.user_agent
    if len(user_agent) > MAX_USER_AGENT_LENGTH:
        context.user_agent = user_agent = user_agent[:MAX_USER_AGENT_LENGTH]
    context.bot = is_robot(user_agent[:_ROBOT_SEARCH_LENGTH])
    staff_reason = event_pb2.STAFF_REASON_UNSPECIFIED
    if context.staff:
        staff_reason = event_pb2.STAFF_REASON_KEY
    elif staff.has_address(context.address):
        staff_reason = event_pb2.STAFF_REASON_ADDRESS
    context.address = truncate_address(context.address)
    request = RequestContext(
        context.received_time_ms,
        context.sent_time_ms,
        context.site,
        context.origin,
        user_agent,
        context.bot,
        context.global_privacy_control,
        context.keeps_times,
        staff_reason,
    )
    for field in ("site", "origin", "global_privacy_control", "keeps_times", "staff"):
        context.ClearField(field)
    return request


@lru_cache(maxsize=4_096)
def is_robot(user_agent: str) -> bool:
    """Whether ua-parser takes the user agent for a robot's.

    Few of its 633 device patterns are for robots. Only a user agent that matches one of those needs the whole list, in
    which a device with a similar name (Cubot phones) may come first. This gives the same result several times faster.
    """
    if not any(matches(user_agent) for matches in _robot_patterns):
        return False
    device = _parser.parse_device(user_agent)
    return device is not None and device.family == _ROBOT


@lru_cache(maxsize=16_384)
def truncate_address(address: str) -> str:
    """Return the network of an address: the first 24 bits of IPv4, 48 of IPv6; "" when the text is no address."""
    try:
        whole: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return ""
    if isinstance(whole, IPv6Address) and whole.ipv4_mapped:
        whole = whole.ipv4_mapped
    dropped_bits = whole.max_prefixlen - (24 if isinstance(whole, IPv4Address) else 48)
    return str(type(whole)(int(whole) >> dropped_bits << dropped_bits))
