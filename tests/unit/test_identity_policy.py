"""The identity policy: placeholders, the file, its errors with line and rule, and the command that checks it."""

import json
import re
import subprocess
import sys
from itertools import filterfalse
from pathlib import Path
from typing import Any
from unicodedata import category

import msgspec
import pytest
from footfall.event.v1.event_pb2 import IgnoredReason
from footfall_eventlog.attributes import AttributeNames
from footfall_eventlog.identity_policy import IdentityPolicy, IdentityPolicyError, LinkPolicy, LinkRules, json_schema
from footfall_eventlog.match_keys import Rule
from footfall_eventlog.placeholders import _INVISIBLE, PLACEHOLDERS, Placeholders
from hypothesis import given
from hypothesis import strategies as st

DEFAULTS = Placeholders()


def full_width(text: str) -> str:
    return "".join(chr(ord(character) + 0xFEE0) if character > " " else character for character in text)


# Of the values, one of each spelling and shape, and others.
IGNORED = {
    "blank": ["", " ", "\t\n", "\u200b", "\ufeff \u00ad", "\u3164", '""'],
    "placeholder": [
        *PLACEHOLDERS,
        *("undefined ", "NULL", "nan", "Guest", "N/A", "00000000-0000-0000-0000-000000000000", "Test@Test.com"),
        *('"undefined"', "'null'", full_width("undefined"), "unde\u200bfined", "\u00a0null\u2028"),
    ],
    "template": [
        "{{user.id}}",
        "%%EMAIL%%",
        "${userId}",
        "<%= user %>",
        "[object Object]",
        "u-{{id}}",
        full_width("[object Object]"),
    ],
    "empty_hash": [
        "d41d8cd98f00b204e9800998ecf8427e",
        "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
}
PERSONS = ["dana", "Dana@example.com ", "00", "10", "1", "test", "admin", "{dana}", "$dana", "50%", "guest7", "nulled"]


def reason(text: str, placeholders: Placeholders = DEFAULTS) -> str:
    name = IgnoredReason.Name(placeholders.ignored_reason(text)).removeprefix("IGNORED_REASON_").lower()
    return "" if name == "unspecified" else name


@pytest.mark.parametrize(("text", "expected"), [(text, why) for why, texts in IGNORED.items() for text in texts])
def test_a_value_that_belongs_to_no_person_is_ignored(text: str, expected: str) -> None:
    assert reason(text) == expected


@pytest.mark.parametrize("text", PERSONS)
def test_other_values_name_a_person(text: str) -> None:
    assert reason(text) == ""


@given(st.text(max_size=512))
def test_white_space_case_and_invisible_characters_do_not_matter(text: str) -> None:
    assert reason(f"\t{text}\u200b ") == reason(text)
    assert reason(text.swapcase()) == reason(text) or text.swapcase().swapcase() != text


def test_characters_that_show_nothing_are_left_out_and_no_others() -> None:
    left_out = {*"".join(_INVISIBLE.findall("".join(map(chr, range(sys.maxunicode + 1)))))}
    controls = {character for character in map(chr, range(sys.maxunicode + 1)) if category(character) in {"Cc", "Cf"}}
    expected = {*filterfalse(str.isspace, controls), *"\u115f\u1160\u2800\u3164\uffa0"}
    assert expected <= left_out
    # Assigned in Unicode 15, which Python has since 3.12.
    assert left_out - expected <= {*map(chr, range(0x13439, 0x13440))}


def ignored_keys(placeholders: Placeholders = DEFAULTS, /, **values: Any) -> list[str]:
    fields = {key: msgspec.Raw(json.dumps(value).encode()) for key, value in values.items()}
    return placeholders.ignored_keys(fields)


@pytest.mark.parametrize("phone", ["0000000000", "+49 000 0000000", "(555) 555-5555", "+1 555 555 5555", "1234567890"])
def test_a_telephone_number_of_no_person_links_no_contact(phone: str) -> None:
    assert ignored_keys(tel=phone) == ["tel"]


def test_attributes_of_persons_are_evidence() -> None:
    assert ignored_keys(phone="+49 30 1234567", mail="dana@test.com", name="Dana", size="none", n=0, m=None) == []


def test_at_most_twenty_keys_are_named() -> None:
    phones = {f"phone{number}": "0" * 10 for number in range(30)}
    assert len(ignored_keys(DEFAULTS, **phones)) == 20


POLICY = """
version = "shop-7"
placeholders = ["gast", "+49 30 1234567", "info@shop.example"]
persons = ["guest"]

[[site]]
name = "bank"
user_id_keys = ["customerId"]
placeholders = ["demo"]
persons = ["0", "gast", "+49 30 1234567", "0000000000"]
"""


def test_sites_extend_and_reduce_the_values(tmp_path: Path) -> None:
    (file := tmp_path / "policy.toml").write_text(POLICY)
    policy = IdentityPolicy.load(file)
    shop, bank = policy.of_site("shop"), policy.of_site("bank")
    assert shop.version == bank.version == "shop-7+defaults-1"
    assert (shop.user_id_keys[0], bank.user_id_keys) == ("userID", ("customerId",))
    values = ("gast", "guest", "demo", "0", "null")
    assert [reason(value, shop.placeholders) for value in values] == [
        "placeholder",
        "",
        "",
        "placeholder",
        "placeholder",
    ]
    assert [reason(value, bank.placeholders) for value in values] == ["", "", "placeholder", "", "placeholder"]
    attributes = {"phone": "+49301234567", "mail": "Info@shop.example", "tel": "000 000 0000"}
    assert ignored_keys(shop.placeholders, **attributes) == ["phone", "mail", "tel"]
    assert ignored_keys(bank.placeholders, **attributes) == ["mail"]


def test_staff_is_known_by_site_and_by_address(tmp_path: Path) -> None:
    (file := tmp_path / "policy.toml").write_text(
        'version = "1"\nstaff_networks = ["10.20.0.0/16", "203.0.113.7", "2001:db8:20::/48"]\n'
        '[[site]]\nname = "desk"\nstaff = true\n[[site]]\nname = "shop"\n'
    )
    staff = IdentityPolicy.load(file).staff
    assert staff.sites == {"desk"}
    inside = ["10.20.0.0", "10.20.255.255", "203.0.113.7", "::ffff:10.20.1.2", "2001:db8:20:ffff::1"]
    outside = ["10.19.255.255", "10.21.0.0", "203.0.113.8", "::ffff:10.21.0.0", "2001:db8:21::", "::10.20.1.2", "", "x"]
    assert [staff.has_address(one) for one in [*inside, *outside]] == [True] * len(inside) + [False] * len(outside)
    assert not IdentityPolicy().staff.has_address("10.20.0.0")


def test_keys_of_the_file_win_over_the_setting(tmp_path: Path) -> None:
    (file := tmp_path / "policy.toml").write_text('version = "1"\n')
    assert IdentityPolicy.load(file, ["login"]).of_site("x").user_id_keys == ("login",)
    file.write_text('version = "1"\nuser_id_keys = ["customerId"]')
    assert IdentityPolicy.load(file, ["login"]).of_site("x").user_id_keys == ("customerId",)


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ("placeholders = []\n", 1, "missing required field `version`"),
        ('version = "1"\nplaceholder = ["x"]\n', 2, "unknown field `placeholder`"),
        ('version = "1"\n\nplaceholders = [\n  "x",\n  "",\n]\n', 3, "placeholders"),
        ('version = "a b"\n', 1, "version"),
        ('version = "1"\npersons = 7\n', 2, "persons"),
        ('version = "1"\n[[site]]\nname = "a"\n[[site]]\nname = "b"\nuser_id_keys = []\n', 6, "user_id_keys"),
        ('version = "1"\n[[site]]\nname = "a"\n\n[[site]]\nname = "a"\n', 6, "is defined more than once"),
        ('version = "1"\nplaceholders = [\n  "x",\n  " ",\n]\n', 4, "is blank"),
        ('version = "1"\n[[site]]\nname = "a"\nplaceholders = ["X"]\npersons = ["y", "x"]\n', 5, "in placeholders too"),
        ('version = "1\n', 1, "line 1"),
        (
            'version = "1"\nstaff_networks = [\n  "10.0.0.0/8",\n  "10.0.0.1/8",\n]\n',
            4,
            "without bits behind the prefix",
        ),
        ('version = "1"\nstaff_networks = ["the office"]\n', 2, "must be addresses or networks"),
        ('version = "1"\nstaff = true\n', 2, "unknown field `staff`"),
        ('version = "1"\n[[site]]\nname = "a"\nstaff_networks = []\n', 4, "unknown field `staff_networks`"),
    ],
)
def test_an_error_names_line_and_rule(tmp_path: Path, text: str, line: int, rule: str) -> None:
    (file := tmp_path / "policy.toml").write_text(text)
    with pytest.raises(IdentityPolicyError) as caught:
        IdentityPolicy.load(file)
    message = str(caught.value)
    assert rule in message
    assert re.search(rf"policy\.toml:{line}: |line {line}\b", message), message


def test_the_schema_has_every_key_with_its_meaning() -> None:
    for definition in json_schema()["$defs"].values():
        assert definition["additionalProperties"] is False
        assert definition["description"]
        assert all("description" in field or "anyOf" in field for field in definition["properties"].values())


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    (file := tmp_path / "policy.toml").write_text(POLICY)
    run = [str(Path(sys.executable).with_name("footfall-policy")), "check", str(file)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "shop-7+defaults-1.")
    file.write_text(POLICY.replace("persons = [", "people = [", 1))
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{file}:4: " in done.stderr
    assert "unknown field `people`" in done.stderr


def test_the_file_says_what_links_contacts_and_settings_the_rest() -> None:
    names = AttributeNames({"email": ("mail",), "phone": ("tel",), "firstName": ("first",), "lastName": ("last",)})
    settings = LinkPolicy(rules=LinkRules(max_identities_per_value=7, max_devices_per_day=9), names=names)
    unsaid = IdentityPolicy.parse('version = "1"\n', "policy").links(settings)
    assert (unsaid.version, unsaid.rules, unsaid.names.by_attribute) == (
        "1+defaults-1",
        settings.rules,
        names.by_attribute,
    )
    said = IdentityPolicy.parse(
        'version = "2"\nlink_rules = ["name", "phone_number"]\nmax_identities_per_value = 3\nemail_keys = ["post"]\n',
        "p",
    ).links(settings)
    assert said.rules == LinkRules(
        order=(Rule.NAME, Rule.PHONE_NUMBER), max_identities_per_value=3, max_devices_per_day=9
    )
    assert said.names.by_attribute == names.by_attribute | {"email": ("post",)}
    assert IdentityPolicy.parse('version = "3"\nlink_rules = []\n', "p").links(settings).rules.order == ()


@pytest.mark.parametrize(
    ("text", "line", "rule"),
    [
        ('link_rules = ["phone_number",\n"email_address",\n"phone_number"]', 2, "phone_number is there more than once"),
        ('link_rules = ["telephone"]', 2, "link_rules[0]: Invalid enum value 'telephone'"),
        ("max_identities_per_value = 0", 2, "max_identities_per_value: Expected `int` >= 1"),
        ("max_devices_per_day = 101", 2, "max_devices_per_day: Expected `int` <= 100"),
        ("email_keys = []", 2, "email_keys: Expected `array` of length >= 1"),
        (
            'email_keys = ["post"]\nphone_keys = [\n  "tel",\n  "Post",\n]',
            5,
            "phone_keys: a key is in email_keys already",
        ),
        ('phone_keys = ["tel", " TEL"]', 2, "phone_keys: a key is in phone_keys already"),
        ('[[site]]\nname = "bank"\nlink_rules = ["name"]', 4, "unknown field `link_rules`"),
    ],
)
def test_conflicts_of_links_are_named_with_line_and_rule(text: str, line: int, rule: str) -> None:
    with pytest.raises(IdentityPolicyError) as error:
        IdentityPolicy.parse(f'version = "1"\n{text}\n', "policy")
    [said] = str(error.value).splitlines()
    assert said.startswith(f"policy:{line}: ")
    assert rule in said
