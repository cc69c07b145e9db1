"""CORS headers of beacons."""

from pathlib import Path

from footfall_eventlog.sites import load_sites
from footfall_gateway.beacons.cors import Cors


def test_a_page_may_read_responses_as_soon_as_the_sites_file_lists_its_origin(tmp_path: Path) -> None:
    (file := tmp_path / "sites.toml").write_text('[[site]]\nname = "shop"\norigins = ["https://shop.example"]\n')
    sites, origin = load_sites(file), b"https://bank.example"
    cors = Cors(sites)
    assert dict(cors.headers(origin)) == {b"vary": b"origin"}
    file.write_text('[[site]]\nname = "bank"\norigins = ["https://bank.example"]\n')
    sites.take(load_sites(file))
    assert dict(cors.headers(origin))[b"access-control-allow-origin"] == origin
    assert cors.headers(origin) is cors.headers(origin)
