"""The sample customers of the demo shop, as contacts: `make run` writes them once, so their sign-ins are linked."""

import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx

from deploy.embedded import Credentials, is_ready

CUSTOMERS: Final[tuple[dict[str, Any], ...]] = (
    {"firstName": "Dana", "lastName": "Oak", "emailAddresses": ["dana@example.com"], "phoneNumbers": ["+12025550190"]},
    {
        "firstName": "Robin",
        "lastName": "Hale",
        "emailAddresses": ["robin@example.com"],
        "phoneNumbers": ["+12025550191"],
    },
)
"""As in gateway/console/demo/shop.js."""


def write_once_ready(gateway: str, credentials: Credentials, data_dir: Path) -> None:
    """Write the contacts in the background, once the suite at this URL is ready. Later starts with the data do not."""
    mark = data_dir / "demo-people"
    if not mark.exists():
        threading.Thread(target=_write, args=(gateway, credentials, mark), daemon=True).start()


def _write(gateway: str, credentials: Credentials, mark: Path) -> None:
    while not (is_ready(gateway) and _are_answered(gateway, credentials)):
        time.sleep(0.5)
    mark.touch(mode=0o600)


def _are_answered(gateway: str, credentials: Credentials) -> bool:
    """Create the contacts that do not exist; whether the gateway has taken or refused each of them."""
    auth = credentials.user, credentials.password
    try:
        # On this machine; a certificate has another host name.
        with httpx.Client(base_url=gateway, auth=auth, verify=False, timeout=10) as http:  # noqa: S501
            answers = [
                http.put(
                    f"/api/v1/contacts/demo-{customer['firstName'].lower()}",
                    json=customer,
                    headers={"If-None-Match": "*"},
                )
                for customer in CUSTOMERS
            ]
    except httpx.HTTPError:
        return False
    return not any(answer.is_server_error for answer in answers)
