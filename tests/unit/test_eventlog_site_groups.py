"""Which visit an id stands for, where SITES_FILE parts sites."""

import uuid
from pathlib import Path

import pytest
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import SitesFileError

VISIT = str(uuid.uuid4())
GROUPS = SiteGroups({"shop": "shop", "bank": "money", "insurance": "money"})


def test_sites_of_a_group_mean_one_visit_by_an_id_and_others_another() -> None:
    stored = {site: GROUPS.stored_id(VISIT, site) for site in ("shop", "bank", "insurance")}
    assert stored["bank"] == stored["insurance"]
    assert len({VISIT, *stored.values()}) == 3


def test_no_site_can_send_the_stored_id_of_a_visit_of_another() -> None:
    stored = GROUPS.stored_id(VISIT, "bank")
    assert stored not in {GROUPS.stored_id(sent, "shop") for sent in (VISIT, stored)}


def test_the_site_default_has_the_ids_that_its_pages_send_unless_they_might_be_another_s() -> None:
    site_groups = SiteGroups({"default": "default", "bank": "bank"})
    assert site_groups.stored_id(VISIT, "default") == VISIT
    assert site_groups.candidates(VISIT, ["default"]) == [VISIT]
    stored = site_groups.stored_id(VISIT, "bank")
    assert site_groups.stored_id(stored, "default") != stored


def test_who_asks_for_sites_is_never_led_to_a_visit_of_another_group() -> None:
    assert GROUPS.candidates(VISIT, ["shop"]) == [VISIT, GROUPS.stored_id(VISIT, "shop")]
    assert set(GROUPS.candidates(VISIT, [])) == {VISIT, *(GROUPS.stored_id(VISIT, site) for site in ("shop", "bank"))}
    assert GROUPS.candidates(VISIT, ["unknown"]) == [VISIT]


def test_sites_of_a_group_see_the_same() -> None:
    assert GROUPS.sharing(["bank"]) == GROUPS.sharing(["insurance"]) == ["bank", "insurance"]
    assert GROUPS.sharing(["shop", "unknown"]) == ["shop", "unknown"]
    assert GROUPS.sharing([]) == []


def test_without_a_file_there_are_no_walls() -> None:
    site_groups = SiteGroups.load(None)
    assert site_groups.stored_id(VISIT, "shop") == VISIT
    assert site_groups.candidates(VISIT, ["shop"]) == [VISIT]
    assert site_groups.sharing(["shop"]) == ["shop"]


def test_a_site_is_a_group_of_its_own_unless_it_says_of_which(tmp_path: Path) -> None:
    file = tmp_path / "sites.toml"
    file.write_text('[[site]]\nname = "shop"\n\n[[site]]\nname = "help"\ngroup = "shop"\n\n[[site]]\nname = "bank"\n')
    site_groups = SiteGroups.load(file)
    assert site_groups.sharing(["shop"]) == ["help", "shop"]
    assert site_groups.sharing(["bank"]) == ["bank"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing required field `site`"),
        ("site = 1", "Expected `array`"),
        ("[[site]]\ngroup = 'a'", "missing required field `name`"),
        ("[[site]]\nname = 'a'\ngroup = 1", "Expected `str`"),
        ("[", "Invalid initial character"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_being_quoted(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "sites.toml"
    file.write_text(text)
    with pytest.raises(SitesFileError, match=rf"sites\.toml: .*{problem}"):
        SiteGroups.load(file)
    with pytest.raises(SitesFileError, match="No such file"):
        SiteGroups.load(tmp_path / "none")
