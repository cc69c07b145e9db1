"""The sample customers of the demo shop, as contacts: `make run` writes them once, so that their sign-ins are linked."""

import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx

from deploy.embedded import Credentials, is_ready

CUSTOMERS: Final[tuple[dict[str, Any], ...]] = (
    {"firstName": "Dana", "lastName": "Oak", "emailAddresses": ["dana@example.com"], "phoneNumbers": ["+12025550190"]},
    {"firstName": "Robin", "lastName": "Hale", "emailAddresses": ["robin@example.com"], "phoneNumbers": ["+12025550191"]},
)
"""As in gateway/console/demo/shop.js."""


def write_once_ready(gateway: str, credentials: Credentials, data_dir: Path) -> None:
    """Write the contacts in the background, once the suite at this URL is ready. Later starts with the data do not."""
    mark = data_dir / "demo-people"
    if not mark.exists():
        threading.Thread(target=_write, args=(gateway, credentials, mark), daemon=True).start()


def _write(gateway: str, credentials: Credentials, mark: Path) -> None:
    while not is_ready(gateway):
        time.sleep(0.5)
    try:
        # On this machine; a certificate has another host name.
        with httpx.Client(base_url=gateway, auth=tuple(credentials), verify=False, timeout=10) as http:  # noqa: S501
            for customer in CUSTOMERS:
                path = f"/api/v1/contacts/demo-{customer['firstName'].lower()}"
                answer = http.put(path, json=customer, headers={"If-None-Match": "*"})
                if answer.status_code != httpx.codes.PRECONDITION_FAILED:  # 412: there is one already
                    answer.raise_for_status()
    except httpx.HTTPError:
        return  # the next start tries again
    mark.touch(mode=0o600)
