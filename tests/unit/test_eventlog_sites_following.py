"""A changed SITES_FILE is taken while a process runs, a malformed one is not."""

import asyncio
from pathlib import Path

import pytest
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import load_sites
from footfall_eventlog.sites_following import follow_sites
from footfall_servicekit import reloading
from structlog.testing import capture_logs

from tests.tools.batches import new_uuid
from tests.tools.eventually import eventually


async def test_sites_and_groups_change_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_EVERY_S", 0.01)
    (file := tmp_path / "sites.toml").write_text('[[site]]\nname = "shop"\ngroup = "all"\n')
    sites, groups = load_sites(file), SiteGroups.load(file)
    assert sites.find("bank", "") is None
    following = asyncio.create_task(follow_sites(file, (SiteGroups.load, groups.take), (load_sites, sites.take)))
    await eventually(lambda: sites.changes == 1)
    with capture_logs() as lines:
        file.write_text(file.read_text() + '[[site]]\nname = "bank"\ngroup = "all"\n')
        await eventually(lambda: sites.find("bank", "") is not None)
        visit_id = new_uuid()
        assert groups.stored_id(visit_id, "bank") == groups.stored_id(visit_id, "shop") != visit_id
        await asyncio.sleep(0.1)
        assert sites.changes == 2, "they are taken once: what is remembered of sites is forgotten then"
        lines.clear()
        file.write_text("[[site]]\n")
        await eventually(lambda: "files have changed and cannot be used" in [line["event"] for line in lines])
    assert sites.find("bank", "") is not None
    following.cancel()


async def test_without_a_file_there_is_nothing_to_follow() -> None:
    groups = SiteGroups()
    await follow_sites(None, (SiteGroups.load, groups.take))
