"""Settings that cannot work are refused before anything is served: all together, each by its variable."""

import socket
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.arch.house import SERVICES
from tests.tools.ports import free_ports

HUGE = "99999999999999999999"


class Ended(NamedTuple):
    """What a process that does not serve leaves behind."""

    exit_code: int
    said: list[str]


Start = Callable[..., Ended]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Start:
    """Starts a service, with these arguments and with these variables beside those of the tests."""

    def start(service: str, *arguments: str, **environment: str) -> Ended:
        module = import_module(f"footfall_{service}.__main__")
        monkeypatch.setattr(sys, "argv", ["anything", *arguments])
        with monkeypatch.context() as told:
            for name, value in ({"NEVER_ERASE": "true"} | environment).items():
                told.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                module.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, capsys.readouterr().err.splitlines())

    return start


@pytest.mark.parametrize("service", SERVICES)
def test_settings_that_are_right_are_found_right(service: str, start: Start) -> None:
    assert start(service, "check") == (0, ["The settings are right."])


NO_REDIS = "must be `redis://host:port` or `rediss://...`, with options that redis-py has"
NO_MONGO = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and have valid options"
NO_TARGET = "must be `host:port`, or `dns:///host:port` to ask again for the addresses of a name"
NO_HOST = "must be an address of this machine, or a name of one"
NO_PROXY = "must be addresses or networks such as 10.0.0.0/8, without bits behind the prefix"
TOO_LATE = "an event must not be accepted again after its visit is forgotten"


@pytest.mark.parametrize(
    ("service", "variable", "value", "rule"),
    [
        ("gateway", "GATEWAY_HOST", "999.1.1.1", NO_HOST),
        ("gateway", "GATEWAY_HOST", "nosuch.invalid", NO_HOST),
        ("gateway", "REDIS_URL", "http://127.0.0.1:1", NO_REDIS),
        ("collector", "REDIS_URL", "http://127.0.0.1:1", NO_REDIS),
        ("collector", "REDIS_URL", "redis://127.0.0.1:99999", NO_REDIS),
        ("collector", "REDIS_URL", "redis://127.0.0.1:1?foo=1", NO_REDIS),
        (
            "collector",
            "REDIS_URL",
            "redis://127.0.0.1:1/first",
            "must end with the number of a database, or without any",
        ),
        ("identity", "MONGO_URL", "http://127.0.0.1:1", NO_MONGO),
        ("identity", "MONGO_URL", "mongodb://127.0.0.1:99999", NO_MONGO),
        ("history", "MONGO_URL", "mongodb+srv://nosuch", NO_MONGO),
        (
            "history",
            "MONGO_DATABASE",
            "a b/c.",
            'must have 1 to 63 letters, and no space or any of / \\ . " $ * < > : | ?',
        ),
        ("collector", "COLLECTOR_MAX_MESSAGE_BYTES", "99999999999999", "should be less than or equal to 1073741824"),
        ("identity", "LIVE_RETENTION_DAYS", "99999999999999", "should be less than or equal to 3660"),
        ("history", "LOG_RETENTION_MINUTES", "99999999999999999", "should be less than or equal to 43200"),
        ("history", "EVENT_RETENTION_DAYS", HUGE, "should be less than or equal to 36500"),
        ("history", "VISIT_IDLE_MINUTES", HUGE, "should be less than or equal to 1440"),
        ("collector", "COLLECTOR_LOG_MAX_BYTES", HUGE, "should be less than or equal to 1099511627776"),
        ("gateway", "GATEWAY_TRUSTED_PROXIES", "garbage,300.1.1.1/99", NO_PROXY),
        ("gateway", "GATEWAY_TRUSTED_PROXIES", "10.0.0.1/8", NO_PROXY),
        ("gateway", "COLLECTOR_TARGET", "bogus://x y", NO_TARGET),
        ("history", "IDENTITY_TARGET", "127.0.0.1:99999", NO_TARGET),
        ("gateway", "GATEWAY_KEYS_FILE", "/nonexistent/keys.json", "/nonexistent/keys.json: its folder does not exist"),
        ("gateway", "GATEWAY_KEYS_FILE", "/", "/: Is a directory"),
        ("identity", "IDENTITY_PHONE_REGION", "ZZ", "must be the two capital letters of a country, such as DE"),
        ("gateway", "GATEWAY_PORT", "abc", "should be a valid integer"),
        ("identity", "ERASURE_KEY", "short", "must be keys of 16 characters or more, separated by commas"),
        ("collector", "COLLECTOR_REDACT_EMAILS", "perhaps", "should be true or false"),
        ("collector", "CATEGORIES_FILE", "/no.toml", "/no.toml: No such file or directory"),
        ("gateway", "DSL_FILE", "/nonexistent.xml", "/nonexistent.xml: No such file or directory"),
        *((service, "SITES_FILE", "/no.toml", "/no.toml: No such file or directory") for service in SERVICES),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_rule(
    service: str, variable: str, value: str, rule: str, start: Start
) -> None:
    assert start(service, "check", **{variable: value}) == (2, ["The settings are wrong:", f"  {variable}: {rule}"])


def test_the_collector_takes_no_event_that_may_be_forgotten_already(start: Start) -> None:
    said = f"  MAX_EVENT_AGE_DAYS (9) must be less than LIVE_RETENTION_DAYS (8): {TOO_LATE}"
    assert start("collector", MAX_EVENT_AGE_DAYS="9") == (2, ["The settings are wrong:", said])
    assert start("collector", "check", MAX_EVENT_AGE_DAYS="9", LIVE_RETENTION_DAYS="10").exit_code == 0


def test_everything_is_told_at_once_and_nothing_that_only_follows_from_it(start: Start, tmp_path: Path) -> None:
    sites = tmp_path / "sites.toml"
    sites.write_text('[[site]]\nname = "a b"\n[[site]]\nname = "shop"\norigins = ["shop"]\n')
    wrong = {
        "GATEWAY_PORT": "abc",
        "API_USER": "x",
        "SITES_FILE": "/no.toml",
        "DSL_FILE": "/no.xml",
        "GATEWAY_HOST": "999.1.1.1",
    }
    ended = start("gateway", **wrong)
    assert ended.exit_code == 2
    assert [line.partition(":")[0].strip() for line in ended.said[1:]] == [
        "GATEWAY_PORT",
        "SITES_FILE",
        "DSL_FILE",
        "API_USER and API_PASSWORD",
        "GATEWAY_HOST",
    ]
    ended = start("collector", SITES_FILE=str(sites), LIVE_RETENTION_DAYS="many", MAX_EVENT_AGE_DAYS="9")
    assert [line.partition(":")[0].strip() for line in ended.said[1:]] == [
        "LIVE_RETENTION_DAYS",
        *["SITES_FILE"] * 2,
    ]


def test_levels_of_the_log_may_be_capital(start: Start) -> None:
    assert start("history", "check", LOG_LEVEL="INFO").exit_code == 0


@pytest.mark.parametrize("service", SERVICES)
def test_a_port_that_is_taken_is_named_but_a_check_may_run_beside_the_service(service: str, start: Start) -> None:
    name = f"{service.upper()}_PORT"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = f"  {name}: cannot listen on port {port}: Address already in use"
        assert start(service, **{name: str(port)}) == (2, ["The settings are wrong:", said])
        assert start(service, "check", **{name: str(port)}).exit_code == 0


def test_one_port_for_two_purposes_is_refused(start: Start) -> None:
    [port] = map(str, free_ports(1))
    ended = start("collector", COLLECTOR_PORT=port, COLLECTOR_METRICS_PORT=port)
    assert ended.said[1:] == [f"  COLLECTOR_METRICS_PORT: cannot listen on port {port}: Address already in use"]


@pytest.mark.parametrize(
    ("service", "variable", "nearest"),
    [
        ("gateway", "GATEWY_PORT", "GATEWAY_PORT"),
        ("gateway", "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADRESS", "RATE_LIMIT_EVENTS_PER_MINUTE_PER_ADDRESS"),
        ("collector", "COLLECTOR_LOG_BYTES", "COLLECTOR_LOG_MAX_BYTES"),
        ("identity", "LIVE_RETENTION_DAY", "LIVE_RETENTION_DAYS"),
        ("history", "EVENT_RETENTON_DAYS", "EVENT_RETENTION_DAYS"),
        ("history", "REDIS_URI", "REDIS_URL"),
        ("history", "HISTORY_XYZZY", ""),
    ],
)
def test_a_variable_that_is_misspelt_is_told_with_the_nearest(
    service: str, variable: str, nearest: str, start: Start
) -> None:
    said = f"{variable} is not known{f'; is {nearest} meant?' if nearest else ''}"
    assert start(service, "check", **{variable: "1"}) == (0, [said, "The settings are right."])


def test_a_check_names_the_new_names_of_old_ones(start: Start) -> None:
    old = {"HISTORY_WATCHERS": "7", "IDENTITY_RETENTION_DAYS": "9", "LIVE_RETENTION_DAYS": "10"}
    assert start("history", "check", **old) == (
        0,
        [
            "IDENTITY_RETENTION_DAYS is ignored, because LIVE_RETENTION_DAYS, its new name, is set too: remove "
            "IDENTITY_RETENTION_DAYS",
            "HISTORY_WATCHERS is called HISTORY_MAX_EVENT_STREAMS now: rename it, because the next version ignores the "
            "old name",
            "The settings are right.",
        ],
    )
