"""Turns a User-Agent header into browser, operating system and device."""

from functools import lru_cache

from footfall.history.v1.visit_pb2 import UserAgent
from ua_parser import parse

_ROBOT = "Spider"  # the library's name for the device of every robot


@lru_cache(maxsize=4_096)
def user_agent(text: str, user_agent_id: str) -> UserAgent:
    """A parsed user agent. Parsing takes milliseconds, so the message is cached and must not be changed."""
    parsed = parse(text)
    browser, system, device = parsed.user_agent, parsed.os, parsed.device
    return UserAgent(
        user_agent_id=user_agent_id,
        family=browser.family if browser else "",
        version=_version(browser.major, browser.minor, browser.patch) if browser else "",
        os=system.family if system else "",
        os_version=_version(system.major, system.minor, system.patch) if system else "",
        device=device.family if device else "",
        bot=device is not None and device.family == _ROBOT,
    )


def _version(*parts: str | None) -> str:
    return ".".join(part for part in parts if part)
