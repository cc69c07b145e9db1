"""Turns the context of a request into what its events need of it, and cuts it to what may be kept."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from footfall.event.v1.event_pb2 import EventContext
from ua_parser import Device, Parser
from ua_parser.basic import Resolver
from ua_parser.core import Matcher
from ua_parser_builtins.matchers import MATCHERS

MAX_USER_AGENT: Final = 1_024
_READ_OF_USER_AGENT: Final = 256  # so far robots name themselves; what the patterns cost grows faster than the text
_ROBOT: Final = "Spider"  # what the library's data calls the device of every robot

_robot_patterns = tuple(matcher for matcher in MATCHERS[2] if matcher.family == _ROBOT)
_devices: list[Matcher[Device]] = list(MATCHERS[2])
_parser = Parser(Resolver(([], [], _devices)))


class Sender(NamedTuple):
    """What the events of one request have in common. `sent_ms` is 0 when the sender did not tell its clock."""

    received_ms: int
    sent_ms: int
    site: str
    origin: str
    user_agent: str
    is_robot: bool
    sends_gpc: bool
    keeps_times: bool = False


def cut_down(context: EventContext, now_ms: int, tolerance_ms: int | None) -> Sender:
    """Cut a context, in place, to what the log may keep of it. A request without a time of arrival arrived now.

    A time of arrival that is further off than `tolerance_ms` is moved to where it is not; None: it is believed. Site,
    origin, privacy signal and trust in times go too: what they decide is in each event, or that there is none.
    """
    if not context.received_time_ms:
        context.received_time_ms = now_ms
    if tolerance_ms is not None:
        earliest_ms, latest_ms = now_ms - tolerance_ms, now_ms + tolerance_ms
        context.received_time_ms = min(max(context.received_time_ms, earliest_ms), latest_ms)
    user_agent = context.user_agent
    if len(user_agent) > MAX_USER_AGENT:
        context.user_agent = user_agent = user_agent[:MAX_USER_AGENT]
    context.bot = robot = is_robot(user_agent[:_READ_OF_USER_AGENT])
    context.address = cut_address(context.address)
    sender = Sender(
        context.received_time_ms,
        context.sent_time_ms,
        context.site,
        context.origin,
        user_agent,
        robot,
        context.global_privacy_control,
        context.keeps_times,
    )
    context.ClearField("site")
    context.ClearField("origin")
    context.ClearField("global_privacy_control")
    context.ClearField("keeps_times")
    return sender


@lru_cache(maxsize=4_096)
def is_robot(user_agent: str) -> bool:
    """Whether the user agent is a robot's, by ua-parser's data.

    Robots are a few of the 633 patterns for devices. Only what matches one of them needs the whole list, in which a
    device of a like name (the Cubot telephones) may come first. The answer is the same, several times faster.
    """
    if not any(matches(user_agent) for matches in _robot_patterns):
        return False
    device = _parser.parse_device(user_agent)
    return device is not None and device.family == _ROBOT


@lru_cache(maxsize=16_384)
def cut_address(address: str) -> str:
    """The network an address is in: IPv4 of 24 bits, IPv6 of 48. What is no address is dropped."""
    try:
        whole: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return ""
    if isinstance(whole, IPv6Address) and whole.ipv4_mapped:
        whole = whole.ipv4_mapped
    dropped_bits = whole.max_prefixlen - (24 if isinstance(whole, IPv4Address) else 48)
    return str(type(whole)(int(whole) >> dropped_bits << dropped_bits))
