"""Groups of sites (SITES_FILE): which stored visit a visit id stands for, and which sites may see it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from footfall_timeline import scoped_visit_id

from footfall_eventlog.sites import read_sites

_NO_GROUPS: Final[Mapping[str, str]] = MappingProxyType({})


class SiteGroups:
    """Sites of one group share their visits. A site of another group neither sees nor changes them.

    So a stored visit is a browser's visit of one group, and its id is made from both: `scoped_visit_id`. Without
    SITES_FILE an event may name any site, and sites are not isolated.
    """

    def __init__(self, groups: Mapping[str, str] = _NO_GROUPS) -> None:
        """Take the group of each site."""
        self._groups = groups

    @classmethod
    def load(cls, file: Path | None) -> Self:
        """Read SITES_FILE. A site without a group is a group of its own. Raises SitesFileError."""
        return cls({site.name: site.group or site.name for site in read_sites(file)}) if file else cls()

    def take(self, other: Self) -> None:
        """Become the groups of another state of the file."""
        self._groups = other._groups

    def stored_id(self, visit_id: str, site: str) -> str:
        """The id of the stored visit that pages of this site mean by `visit_id`."""
        group = self._groups.get(site)
        return scoped_visit_id(visit_id, group) if group else visit_id

    def group_of(self, site: str) -> str:
        """The group of a site; the site itself when it has none."""
        return self._groups.get(site, site)

    def candidates(self, visit_id: str, sites: Collection[str]) -> list[str]:
        """The ids of all stored visits that `visit_id` may mean: visits of the groups of these sites, or of all groups.

        The id itself is one of them: it may be a stored id already, or be older than the isolation of sites.
        """
        groups = {self._groups[site] for site in sites if site in self._groups} if sites else {*self._groups.values()}
        return list(dict.fromkeys([visit_id, *(scoped_visit_id(visit_id, group) for group in sorted(groups))]))

    def sharing(self, sites: Collection[str]) -> list[str]:
        """These sites, and the sites that share visits with them. Empty when `sites` is empty, which means all."""
        groups = {self._groups[site] for site in sites if site in self._groups}
        return sorted({*sites, *(site for site, group in self._groups.items() if group in groups)})
