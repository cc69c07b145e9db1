"""Turns SITES_FILE into the walls between groups of sites: which visit an id stands for, and who may see it."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from footfall_timeline import scoped_visit_id

_NO_GROUPS: Final[Mapping[str, str]] = MappingProxyType({})


class SiteGroupsError(ValueError):
    """SITES_FILE cannot be used; the text says why and quotes no key."""


class SiteGroups:
    """Sites of one group share their visits. Of others none sees or changes anything, whatever ids its pages send.

    So a visit is a browser's visit of one group, and its id is made from both: `footfall_timeline.scoped_visit_id`.
    Without SITES_FILE anybody may call themselves any site, and there are no walls.
    """

    def __init__(self, groups: Mapping[str, str] = _NO_GROUPS) -> None:
        """Take the group of each site."""
        self._groups = groups

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read SITES_FILE. Raises SiteGroupsError; what does not concern groups is for the collector to judge."""
        if file is None:
            return cls()
        try:
            return cls(dict(map(_group, tomllib.loads(file.read_text(encoding="utf-8"))["site"])))
        except OSError as error:
            raise SiteGroupsError(f"{file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SiteGroupsError(f"{file}: must list each [[site]] with its name") from None

    def stored_id(self, visit_id: str, site: str) -> str:
        """The id of the visit that a page of a site means by one."""
        return scoped_visit_id(visit_id, self._groups.get(site, ""))

    def candidates(self, visit_id: str, sites: Collection[str]) -> list[str]:
        """The ids of all visits that may be meant by one: visits of these sites' groups, or of any when none is given.

        The id itself is among them: it may be a stored one already, also one of before there were walls.
        """
        groups = {self._groups[site] for site in sites if site in self._groups} if sites else {*self._groups.values()}
        return list(dict.fromkeys([visit_id, *(scoped_visit_id(visit_id, group) for group in sorted(groups))]))

    def sharing(self, sites: Collection[str]) -> list[str]:
        """These sites, and those that share visits with them; none when none is given, which stands for all."""
        groups = {self._groups[site] for site in sites if site in self._groups}
        return sorted({*sites, *(site for site, group in self._groups.items() if group in groups)})


def _group(site: Mapping[str, Any]) -> tuple[str, str]:
    name, group = site["name"], site.get("group", "")
    if not isinstance(name, str) or not isinstance(group, str):
        raise TypeError
    return name, group or name
