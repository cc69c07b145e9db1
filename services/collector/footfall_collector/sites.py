"""The sites of a deployment, read from SITES_FILE, and the choice of an event's site by name and origin."""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

import msgspec

from footfall_collector.sign_in_token import Algorithm, SigningKey

DEFAULT_SITE: Final = "default"

_MAX_CACHED_LENGTH: Final = 512  # a host name has at most 253 characters
_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")


class SitesFileError(ValueError):
    """The file is invalid. The text names every problem and quotes no key."""


@dataclass(frozen=True, slots=True)
class Site:
    """A website.

    - `origins`: exact, or `https://*.example.com` for all subdomains. Empty: pages of any origin may send events.
    - `keys`: if not empty, only a token signed with one of them authenticates a SignIn.
    - `honours_gpc`: events of visitors whose browser sends Global Privacy Control are not stored.
    """

    name: str
    origins: tuple[str, ...] = ()
    keys: tuple[SigningKey, ...] = ()
    refuses_bots: bool = False
    honours_gpc: bool = False

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may send events of the site; "" (not a browser) may."""
        return not origin or not self.origins or self.has(origin)

    def has(self, origin: str) -> bool:
        """Whether `origins` contains the origin."""
        return any(_matches(pattern, origin.lower()) for pattern in self.origins)


class Sites:
    """The sites of a deployment. Without any, every valid name is a site."""

    def __init__(self, sites: Iterable[Site] = ()) -> None:
        self._sites = {site.name: site for site in sites}
        self._find_cached = lru_cache(maxsize=4_096)(self._find)

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read SITES_FILE (None: no sites). Raises SitesFileError."""
        return cls() if file is None else cls(_read(file))

    def find(self, name: str, origin: str) -> Site | None:
        """Return the site of an event, or None if it is unknown or does not allow the origin.

        `name` is the site that the event names, `origin` the origin of its page; either may be "". Without a name, the
        first site with the origin counts, else the site `default`.
        """
        # Names and origins longer than the limit cannot be valid; not caching them bounds the memory.
        return self._find_cached(name, origin) if len(name) + len(origin) <= _MAX_CACHED_LENGTH else None

    def _find(self, name: str, origin: str) -> Site | None:
        if not self._sites:
            name = name or DEFAULT_SITE
            return Site(name) if _SITE_NAME.fullmatch(name) else None
        if not name:
            by_origin = next((site for site in self._sites.values() if site.has(origin)), None)
            if by_origin is not None:
                return by_origin
        site = self._sites.get(name or DEFAULT_SITE)
        return site if site is not None and site.allows(origin) else None


def _matches(pattern: str, origin: str) -> bool:
    scheme, wildcard, rest = pattern.partition("*")
    if not wildcard:
        return origin == pattern
    return origin.startswith(scheme) and origin.endswith(rest) and len(origin) > len(pattern) - 1


_TextOrFile = tuple[str | None, str | None]


class _Key(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    algorithm: Algorithm
    secret: str | None = None
    secret_file: str | None = None
    public_key: str | None = None
    public_key_file: str | None = None


class _Site(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    group: str = ""  # used by footfall_timeline.Walls
    origins: list[str] = []
    refuse_bots: bool = False
    honour_global_privacy_control: bool = False
    keys: list[_Key] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    site: list[_Site]


def _read(file: Path) -> list[Site]:
    try:
        given = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    except OSError as error:
        raise SitesFileError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, TOML or of this form; the texts of these errors quote no key
        raise SitesFileError(f"{file}: {error}") from None
    problems = [f"site {name!r}: is defined twice" for name in _repeated(site.name for site in given.site)]
    if not given.site:
        problems.append("must list at least one [[site]]")
    sites = [_site(site, file.parent, problems) for site in given.site]
    if problems:
        raise SitesFileError("\n".join(f"{file}: {problem}" for problem in problems))
    return sites


def _site(given: _Site, folder: Path, problems: list[str]) -> Site:
    """Convert one site; append what is wrong with it to `problems`."""
    where = f"site {given.name!r}"
    if not _SITE_NAME.fullmatch(given.name):
        problems.append(f"{where}: the name must have 1 to 64 letters, digits, dots, dashes and underscores")
    if given.group and not _SITE_NAME.fullmatch(given.group):
        problems.append(f"{where}: the group must have 1 to 64 letters, digits, dots, dashes and underscores")
    origins = tuple(origin.lower().rstrip("/") for origin in given.origins)
    problems += [
        f"{where}: origin {origin!r} must look like https://shop.example or https://*.shop.example"
        for origin in origins
        if not _ORIGIN.fullmatch(origin)
    ]
    problems += [f"{where}: key {key_id!r} is defined twice" for key_id in _repeated(key.id for key in given.keys)]
    keys = []
    for key in given.keys:
        try:
            keys.append(_key(key, folder))
        except ValueError as error:
            problems.append(f"{where}: key {key.id!r}: {error}")
    return Site(given.name, origins, tuple(keys), given.refuse_bots, given.honour_global_privacy_control)


def _key(given: _Key, folder: Path) -> SigningKey:
    if not given.id:
        raise ValueError("the id must not be empty")
    secret, public_key = (given.secret, given.secret_file), (given.public_key, given.public_key_file)
    if given.algorithm == "HS256":
        return SigningKey.from_secret(given.id, _material("secret", secret, public_key, folder))
    return SigningKey.from_public_key(given.id, _material("public_key", public_key, secret, folder))


def _material(name: str, wanted: _TextOrFile, unwanted: _TextOrFile, folder: Path) -> str:
    """Return the key material from the text or from the file, whose path may be relative to the sites file."""
    text, file = wanted
    if (text is None) == (file is None) or unwanted != (None, None):
        raise ValueError(f"must have {name} or {name}_file, and only one")
    if file is None:
        return text or ""
    try:
        return (folder / file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_file cannot be read: {type(error).__name__}") from None


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
