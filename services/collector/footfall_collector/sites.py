"""The sites of SITES_FILE with their signing keys, fully checked."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec
from footfall_eventlog import sites
from footfall_eventlog.sites import SITE_NAME, SitesFileError, normalize_origins, parse_sites_file

from footfall_collector.sign_in_token import Algorithm, SigningKey

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_ORIGIN = re.compile(rf"https?://(?:\*\.)?(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?")


class Site(sites.Site, frozen=True):
    """A website as admission needs it.

    - `keys`: if not empty, only a token signed with one of them authenticates a SignIn.
    - `honours_gpc`: events of visitors whose browser sends Global Privacy Control are not stored.
    """

    keys: tuple[SigningKey, ...] = ()
    refuses_bots: bool = False
    honours_gpc: bool = False


class Sites(sites.Sites[Site]):
    """The sites of a deployment. Without SITES_FILE there are none, and every valid name is a site."""

    def __init__(self, listed: Iterable[Site] = ()) -> None:
        super().__init__(listed, Site)

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read SITES_FILE (None: no sites). Raises SitesFileError."""
        return cls() if file is None else cls(_read(file))


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
    group: str = ""
    origins: list[str] = []
    refuse_bots: bool = False
    honour_global_privacy_control: bool = False
    keys: list[_Key] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    site: list[_Site]


def _read(file: Path) -> list[Site]:
    given = parse_sites_file(file, _File)
    problems = [f"site {name!r}: is defined twice" for name in _repeated(site.name for site in given.site)]
    if not given.site:
        problems.append("must list at least one [[site]]")
    listed = [_site(site, file.parent, problems) for site in given.site]
    if problems:
        raise SitesFileError("\n".join(f"{file}: {problem}" for problem in problems))
    return listed


def _site(given: _Site, folder: Path, problems: list[str]) -> Site:
    """Convert one site; append what is wrong with it to `problems`."""
    where = f"site {given.name!r}"
    if not SITE_NAME.fullmatch(given.name):
        problems.append(f"{where}: the name must have 1 to 64 letters, digits, dots, dashes and underscores")
    if given.group and not SITE_NAME.fullmatch(given.group):
        problems.append(f"{where}: the group must have 1 to 64 letters, digits, dots, dashes and underscores")
    origins = normalize_origins(given.origins)
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
    return Site(given.name, origins, given.group, tuple(keys), given.refuse_bots, given.honour_global_privacy_control)


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
