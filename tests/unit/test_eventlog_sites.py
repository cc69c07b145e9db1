"""The site of an event: the gateway, which counts events, and the collector, which admits them, agree."""

from itertools import product
from pathlib import Path

import pytest
from footfall_collector.sites import Sites as CollectorSites
from footfall_eventlog.sites import load_sites

FILE = """
[[site]]
name = "shop"
origins = ["https://shop.example/", "https://*.Shop.example"]
[[site]]
name = "www"
origins = ["https://www.shop.example"]
[[site]]
name = "open"
[[site]]
name = "default"
origins = ["http://localhost:8080"]
"""
NAMES = ["", "shop", "www", "open", "default", "Shop", "nothing", "s" * 600]
ORIGINS = [
    "",
    "null",
    "https://shop.example",
    "HTTPS://SHOP.EXAMPLE",
    "http://shop.example",
    "https://www.shop.example",
    "https://a.b.shop.example",
    "https://shop.example.evil.example",
    "https://evilshop.example",
    "https://shop.example:444",
    "http://localhost:8080",
    "https://" + "a." * 300 + "shop.example",
]


@pytest.mark.parametrize("content", [FILE, None])
def test_gateway_and_collector_agree_on_the_site_of_an_event(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "sites.toml" if content else None
    if file and content:
        file.write_text(content)
    ours, theirs = load_sites(file), CollectorSites.load(file)
    for name, origin in product(NAMES, ORIGINS):
        counted, admitted = ours.find(name, origin), theirs.find(name, origin)
        assert (counted and counted.name) == (admitted and admitted.name), (name, origin)
