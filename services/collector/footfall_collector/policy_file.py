"""The current identity policy: the content of IDENTITY_POLICY_FILE, which is reloaded when it changes."""

from collections.abc import Sequence
from pathlib import Path

from footfall_eventlog.identity_policy import IdentityPolicy, SitePolicy
from footfall_eventlog.staff import StaffRules
from footfall_servicekit.reloading import ReloadingFile


class PolicyFile(ReloadingFile[IdentityPolicy]):
    """The policy in force. After an invalid change, the previous one stays in force."""

    def __init__(self, path: Path | None, user_id_keys: Sequence[str]) -> None:
        """`user_id_keys` are those of sites for which the file gives none. Raises IdentityPolicyError."""
        super().__init__(lambda: IdentityPolicy.load(path, user_id_keys), [path])

    def of_site(self, site: str) -> SitePolicy:
        """The policy of a site."""
        return self.latest.of_site(site)

    def staff(self) -> StaffRules:
        """What marks events as those of staff."""
        return self.latest.staff
