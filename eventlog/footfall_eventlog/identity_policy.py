"""The identity policy (IDENTITY_POLICY_FILE): keys with the user id, values that name no person, and staff, by site.

And what links identities to contacts. The one parser of the file. The collector and `footfall-import` apply the policy
to an event once, and the event carries the result. So all readers of the event agree, also after the file has changed.
What links contacts is applied by identity, to what is stored of all identities.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

import msgspec
from msgspec import Meta

from footfall_eventlog.attributes import USUAL_NAMES, AttributeNames
from footfall_eventlog.devices import FEW, MAX_COUNTED
from footfall_eventlog.events import MAX_DATA_KEY_LENGTH, MAX_IDENTITY_LENGTH, USER_ID_KEYS
from footfall_eventlog.match_keys import RULES, Rule
from footfall_eventlog.placeholders import PLACEHOLDERS_VERSION, Placeholders, compared
from footfall_eventlog.sites import SITE_NAME
from footfall_eventlog.staff import StaffRules

_MAX_KEYS: Final = 50
_MAX_VALUES: Final = 1_000
_MAX_SITES: Final = 1_000
_MAX_NETWORKS: Final = 1_000

_ERROR = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)
_SITE_HEADER = re.compile(r"\s*\[\[\s*site\s*\]\]")


class IdentityPolicyError(ValueError):
    """IDENTITY_POLICY_FILE cannot be used. The text names file, line and rule of every problem."""


class SitePolicy(NamedTuple):
    """The policy of one site. `user_id_keys` are keys of event data, in order of precedence."""

    version: str
    user_id_keys: tuple[str, ...]
    placeholders: Placeholders


class LinkRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules that link identities to contacts, in the order in which they are tried, and what is shared too much.

    How many identities may give a value, and on how many devices of a day an identity may be used.
    """

    order: tuple[Rule, ...] = RULES
    max_identities_per_value: int = 20
    max_devices_per_day: int = 20


class LinkPolicy(NamedTuple):
    """What links identities to contacts: the rules, and the names of attributes. Decisions record `version`."""

    version: str = PLACEHOLDERS_VERSION
    rules: LinkRules = LinkRules()
    names: AttributeNames = AttributeNames(USUAL_NAMES)


MAX_IDENTITIES_PER_VALUE: Final = 10_000
MAX_DEVICES_PER_DAY: Final = MAX_COUNTED - 1
RULE_NAMES: Final = {rule.name.lower(): rule for rule in RULES}
"""The rules by their names in the file."""

Key = Annotated[str, Meta(min_length=1, max_length=MAX_DATA_KEY_LENGTH)]
Value = Annotated[str, Meta(min_length=1, max_length=MAX_IDENTITY_LENGTH)]
Keys = Annotated[
    tuple[Key, ...],
    Meta(
        description="Keys of SignIn and UserInfo data with the user id. The first key that has a value is used. Left "
        "out: those of the whole file; there, those of COLLECTOR_USER_ID_KEYS.",
        min_length=1,
        max_length=_MAX_KEYS,
    ),
]
AddedValues = Annotated[
    tuple[Value, ...],
    Meta(
        description="Further user ids, e-mail addresses, telephone numbers and names that belong to no person.",
        max_length=_MAX_VALUES,
    ),
]
PersonValues = Annotated[
    tuple[Value, ...],
    Meta(description="Values that do name a person, although the defaults ignore them.", max_length=_MAX_VALUES),
]


class Rules(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What names a person, and what does not."""

    user_id_keys: Keys | None = None
    placeholders: AddedValues = ()
    persons: PersonValues = ()


class SiteRules(Rules, kw_only=True):
    """The rules of one site, in addition to those of the whole file. They win over those."""

    name: Annotated[str, Meta(description="Name of the site.", pattern=f"^{SITE_NAME.pattern}$")]
    staff: Annotated[bool, Meta(description="Whether all visitors of the site are staff, for instance agents.")] = False


def _attribute_keys(attribute: str, setting: str) -> Meta:
    about = f"Keys of SignIn and UserInfo data, in any case, with {attribute}. The first key that has a text is used."
    return Meta(description=f"{about} Left out: {setting}.", min_length=1, max_length=_MAX_KEYS)


class PolicyForm(Rules, kw_only=True):
    """An identity policy: what names a person, what does not, who is staff, and what links contacts."""

    version: Annotated[
        str,
        Meta(
            description="Version of this policy. Each decision records it, so change it with every change of the file.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        ),
    ]
    staff_networks: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(
            description="Addresses and networks, such as 10.20.0.0/16, from which staff visit all sites.",
            max_length=_MAX_NETWORKS,
        ),
    ] = ()
    link_rules: (
        Annotated[
            tuple[Literal["email_address", "phone_number", "name"], ...],
            Meta(
                description="The rules that link an identity to a contact, in the order in which they are tried. Rules "
                "that are left out link none. Without the key: all, in the order email_address, phone_number, name.",
                max_length=len(RULES),
            ),
        ]
        | None
    ) = None
    max_identities_per_value: (
        Annotated[
            int,
            Meta(
                description="Identities that may give the same e-mail address, telephone number or name. If more do, "
                "rules do not use the value. Left out: IDENTITY_MAX_IDENTITIES_PER_VALUE.",
                ge=1,
                le=MAX_IDENTITIES_PER_VALUE,
            ),
        ]
        | None
    ) = None
    max_devices_per_day: (
        Annotated[
            int,
            Meta(
                description="Devices on which an identity may be used on a day. If it is used on more, rules link it "
                "only by what a token proves. Left out: IDENTITY_MAX_DEVICES_PER_DAY.",
                ge=FEW,
                le=MAX_DEVICES_PER_DAY,
            ),
        ]
        | None
    ) = None
    email_keys: Annotated[tuple[Key, ...], _attribute_keys("an e-mail address", "IDENTITY_EMAIL_KEYS")] | None = None
    phone_keys: Annotated[tuple[Key, ...], _attribute_keys("a telephone number", "IDENTITY_PHONE_KEYS")] | None = None
    first_name_keys: Annotated[tuple[Key, ...], _attribute_keys("a first name", "IDENTITY_FIRST_NAME_KEYS")] | None = (
        None
    )
    last_name_keys: Annotated[tuple[Key, ...], _attribute_keys("a last name", "IDENTITY_LAST_NAME_KEYS")] | None = None
    site: Annotated[tuple[SiteRules, ...], Meta(description="Rules of single sites.", max_length=_MAX_SITES)] = ()

    @property
    def attribute_keys(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """By attribute, the key of the file and what it gives; without those that the file does not give."""
        keys = {"email": "email_keys", "phone": "phone_keys", "firstName": "first_name_keys"}
        keys |= {"lastName": "last_name_keys"}
        return {attribute: (key, given) for attribute, key in keys.items() if (given := getattr(self, key))}


def json_schema() -> dict[str, Any]:
    """The JSON schema of the file, for editors. TOML has the same types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(PolicyForm)}


class IdentityPolicy:
    """The policy of a deployment. Without a file it has the default placeholders, the same for every site."""

    def __init__(self, form: PolicyForm | None = None, *, user_id_keys: Sequence[str] = USER_ID_KEYS) -> None:
        """`user_id_keys` are those of sites for which the file gives none. Networks of the form have to be valid."""
        form = self._form = form or PolicyForm(version="")
        self.version = f"{form.version}+{PLACEHOLDERS_VERSION}" if form.version else PLACEHOLDERS_VERSION
        keys = form.user_id_keys or tuple(user_id_keys)
        self._default = SitePolicy(self.version, keys, Placeholders().changed(form.placeholders, form.persons))
        self._sites = {
            site.name: SitePolicy(
                self.version,
                site.user_id_keys or keys,
                self._default.placeholders.changed(site.placeholders, site.persons),
            )
            for site in form.site
        }
        self.staff = StaffRules((site.name for site in form.site if site.staff), form.staff_networks)

    @classmethod
    def load(cls, file: Path | None, user_id_keys: Sequence[str] = USER_ID_KEYS) -> Self:
        """Read IDENTITY_POLICY_FILE (None: the defaults alone). Raises IdentityPolicyError."""
        return cls(_read(file) if file else None, user_id_keys=user_id_keys)

    @classmethod
    def parse(cls, text: str, name: str, user_id_keys: Sequence[str] = USER_ID_KEYS) -> Self:
        """The policy of a text, which errors call by a name. Raises IdentityPolicyError."""
        return cls(_parse(text, name), user_id_keys=user_id_keys)

    def of_site(self, site: str) -> SitePolicy:
        """The policy of a site."""
        return self._sites.get(site, self._default)

    def links(self, otherwise: LinkPolicy) -> LinkPolicy:
        """What links contacts; `otherwise` where the file does not say it."""
        form, rules = self._form, otherwise.rules
        names = otherwise.names.by_attribute | {name: given for name, (_, given) in form.attribute_keys.items()}
        return LinkPolicy(
            self.version,
            LinkRules(
                order=rules.order if form.link_rules is None else tuple(RULE_NAMES[name] for name in form.link_rules),
                max_identities_per_value=form.max_identities_per_value or rules.max_identities_per_value,
                max_devices_per_day=form.max_devices_per_day or rules.max_devices_per_day,
            ),
            AttributeNames(names),
        )


def _read(file: Path) -> PolicyForm:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise IdentityPolicyError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8
        raise IdentityPolicyError(f"{file}: {error}") from None
    return _parse(text, str(file))


def _parse(text: str, name: str) -> PolicyForm:
    try:
        form = msgspec.convert(tomllib.loads(text), PolicyForm)
    except msgspec.ValidationError as error:
        raise IdentityPolicyError(_located(name, text, str(error))) from None
    except ValueError as error:  # not TOML: the error names line and column
        raise IdentityPolicyError(f"{name}: {error}") from None
    problems = [f"{name}:{_line(text, *place)}: {rule}" for place, rule in _problems(form)]
    if problems:
        raise IdentityPolicyError("\n".join(problems))
    return form


Place = tuple[int, str, str]
"""A place in the file: the number of its site (-1: before the sites), key, and value in a list ("": the key)."""


def _problems(form: PolicyForm) -> Iterator[tuple[Place, str]]:
    """The rules that are broken, and where. They quote no value: they are logged, and a value may be a person's."""
    for network in form.staff_networks:
        if not _is_network(network):
            rule = "must be addresses or networks such as 10.20.0.0/16, without bits behind the prefix"
            yield (-1, "staff_networks", network), f"staff_networks: {rule}"
    for rule, count in Counter(form.link_rules or ()).items():
        if count > 1:
            yield (-1, "link_rules", rule), f"link_rules: {rule} is there more than once"
    yield from _repeated_keys(form)
    names = Counter(site.name for site in form.site)
    parts: list[Rules] = [form, *form.site]
    for number, part in enumerate(parts, -1):
        where = f"site {part.name!r}, " if isinstance(part, SiteRules) else ""
        if isinstance(part, SiteRules) and names[part.name] > 1:
            yield (number, "name", ""), f"site {part.name!r}: is defined more than once"
        for key, values in (("placeholders", part.placeholders), ("persons", part.persons)):
            for value in _blank(values):
                yield (number, key, value), f"{where}{key}: a value is blank; blank values never name a person"
        for value in _common(part.placeholders, part.persons):
            yield (number, "persons", value), f"{where}persons: a value is in placeholders too"


def _repeated_keys(form: PolicyForm) -> Iterator[tuple[Place, str]]:
    """The keys that two attributes have, or one has twice: it would not be clear which attribute they give."""
    seen: dict[str, str] = {}
    for key, given in form.attribute_keys.values():
        for name in given:
            if other := seen.get(name.strip().casefold()):
                yield (-1, key, name), f"{key}: a key is in {other} already"
            seen.setdefault(name.strip().casefold(), key)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _blank(values: Iterable[str]) -> list[str]:
    return [value for value in values if not compared(value)]


def _common(placeholders: Iterable[str], persons: Iterable[str]) -> list[str]:
    known = {compared(value) for value in placeholders}
    return [value for value in persons if compared(value) in known]


def _located(name: str, text: str, message: str) -> str:
    """An error of the form, with the line of the value that is wrong."""
    found = _ERROR.fullmatch(message)
    rule, path = found.groups() if found else (message, "")
    site = re.match(r"\.site\[(\d+)\]", path)
    key = re.match(r"\.(\w+)", path[site.end() :] if site else path)
    named = re.search(r"`(\w+)`", rule)  # a key that is missing or not known
    line = _line(text, int(site[1]) if site else -1, key[1] if key else named[1] if named else "", "")
    return f"{name}:{line}: {path.lstrip('.') + ': ' if path else ''}{rule}"


def _line(text: str, site: int, key: str, value: str) -> int:
    """The number of the line with a key, or with a value of its list; of the site's header if the key is not there."""
    found, number = 1, -1
    key_line = re.compile(rf"\s*{re.escape(key)}\s*=")
    is_after_key = False
    for line_number, line in enumerate(text.splitlines(), 1):
        if _SITE_HEADER.match(line):
            number += 1
            if number == site:
                found = line_number
        if number != site:
            continue
        if key and not is_after_key and key_line.match(line):
            is_after_key, found = True, line_number
        if is_after_key and (not value or f'"{value}"' in line or f"'{value}'" in line):
            return line_number
    return found
