"""The outlets file: what it accepts, what it refuses and how it says so, and which events an outlet takes."""

from pathlib import Path

import pytest
from footfall_relay.outlets_file import Outlet, OutletsFileError, Webhook, read_outlets

from tests.tools.receiver import SECRET

HOOK = f'[[webhook]]\nname = "crm"\nurl = "https://crm.example/hook"\nsecret = "{SECRET}"\n'


def read(folder: Path, text: str, *, allow_http: bool = False) -> dict[str, Outlet]:
    (file := folder / "outlets.toml").write_text(text)
    return dict(read_outlets(file, allow_http=allow_http))


def test_without_a_file_there_are_no_outlets() -> None:
    assert read_outlets(None, allow_http=False) == {}


def test_outlets_of_all_kinds_are_read_by_name(tmp_path: Path) -> None:
    text = f"""{HOOK}sites = ["shop"]
[[kafka]]
name = "lake"
servers = ["localhost:9092"]
topic = "footfall"
[[parquet]]
name = "warehouse"
folder = "{tmp_path}"
"""
    assert [*read(tmp_path, text)] == ["crm", "lake", "warehouse"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[webhook", "Expected"),
        ("[[webhoook]]\n", "unknown field `webhoook`"),
        (HOOK + 'eventz = ["a"]\n', "unknown field `eventz` - at `$.webhook[0]`"),
        (HOOK.replace('"crm"', '"CRM"'), "$.webhook[0].name"),
        (HOOK + HOOK, "name: several outlets are called crm"),
        (HOOK.replace("https:", "http:"), "crm: url: must be https://"),
        (HOOK.replace("crm.example", "user:word@crm.example"), "crm: url: must be"),
        (HOOK.replace("https://", ""), "crm: url: must be"),
        (HOOK.replace(SECRET, "whsec_dG9vIHNob3J0"), "crm: secret: must be `whsec_`"),
        (HOOK.replace(SECRET, SECRET.removeprefix("whsec_")), "crm: secret: must be `whsec_`"),
        (HOOK + 'secret_env = "NAME"\n', "crm: secret, secret_env: exactly one"),
        (HOOK.replace(f'secret = "{SECRET}"', 'secret_env = "NOT_SET"'), "crm: secret_env: the environment variable"),
        (HOOK + "batch = 101\n", "$.webhook[0].batch"),
        (HOOK + "timeout_s = 0\n", "$.webhook[0].timeout_s"),
        (HOOK + 'sites = ["a b"]\n', "crm: sites: 'a b' must be the name of a site"),
        (HOOK + 'state_changes = ["KNOWN"]\n', "$.webhook[0].state_changes[0]"),
        ('[[kafka]]\nname = "k"\nservers = ["broker"]\ntopic = "t"\n', "k: servers: must be `host:port`"),
        (
            '[[kafka]]\nname = "k"\nservers = ["a:1"]\ntopic = "t"\nuser = "u"\n',
            "k: user, password_env: must be set both",
        ),
        ('[[parquet]]\nname = "p"\nfolder = "relative"\n', "p: folder: must be the absolute path"),
    ],
)
def test_what_is_wrong_is_named_by_outlet_field_and_rule_without_the_secret(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(OutletsFileError) as refused:
        read(tmp_path, text)
    assert problem in str(refused.value)
    assert SECRET.removeprefix("whsec_") not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8", "[::1]"])
def test_plain_http_is_for_this_machine_or_by_setting(tmp_path: Path, host: str) -> None:
    assert read(tmp_path, HOOK.replace("https://crm.example", f"http://{host}"))
    assert read(tmp_path, HOOK.replace("https:", "http:"), allow_http=True)


def test_secrets_of_the_environment_sign_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRETS", f"{SECRET} {SECRET}")
    outlet = read(tmp_path, HOOK.replace(f'secret = "{SECRET}"', 'secret_env = "CRM_SECRETS"'))["crm"]
    assert isinstance(outlet, Webhook)
    assert outlet.keys() == [b"a secret of at least 24 bytes"] * 2


@pytest.mark.parametrize(
    ("filters", "site", "name", "is_taken"),
    [
        ("", "any", "Any", True),
        ('sites = ["shop"]', "shop", "Any", True),
        ('sites = ["shop"]', "bank", "Any", False),
        ('events = ["SignIn", "Order*"]', "any", "OrderPlaced", True),
        ('events = ["SignIn", "Order*"]', "any", "PreOrder", False),
        ('events = ["SignIn", "Order*"]', "any", "signin", False),
        ('sites = ["shop"]\nevents = ["A"]', "shop", "B", False),
    ],
)
def test_an_outlet_takes_events_by_site_and_name(
    tmp_path: Path, filters: str, site: str, name: str, is_taken: bool
) -> None:
    assert read(tmp_path, f"{HOOK}{filters}\n")["crm"].takes(site, name) is is_taken
