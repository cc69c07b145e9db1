"""The files of the tracker, as the gateway sends them."""

import gzip
import re
from collections import Counter
from pathlib import Path

import footfall_gateway
import pytest
from footfall_gateway.browser.tracker_bundle import (
    DSL_SCRIPT_PATH,
    JQUERY_PATH,
    LINKS_SCRIPT_PATH,
    SCRIPT_PATHS,
    load_tracker_files,
)

FILES = load_tracker_files(idle_minutes=30)


@pytest.mark.parametrize(
    ("path", "budget"),
    [(SCRIPT_PATHS[0], 6_100), (DSL_SCRIPT_PATH, 2_000), (LINKS_SCRIPT_PATH, 1_200), (JQUERY_PATH, 31_000)],
)
def test_size_budget(path: str, budget: int) -> None:
    assert len(FILES[path].gzipped) < budget


def test_no_name_is_declared_twice_in_the_parts_of_the_script() -> None:
    # The parts become one function, in which a second declaration would silently replace the first.
    parts = [*(Path(footfall_gateway.__file__).parents[1] / "tracker" / "core").glob("*.js")]
    declared = re.compile(r"^(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
    names = Counter(name for part in parts for name in declared.findall(part.read_text(encoding="utf-8")))
    assert len(names) > 50
    assert [name for name, count in names.items() if count > 1] == []


def test_every_path_has_the_same_script() -> None:
    assert len({FILES[path].version for path in SCRIPT_PATHS}) == 1


def test_the_script_knows_when_a_visit_is_over() -> None:
    core, later = FILES["/tracker.js"], load_tracker_files(idle_minutes=45)["/tracker.js"]
    assert core.body.replace(b"'30'", b"'45'") == later.body != core.body
    assert core.version != later.version


def test_versions_and_caching() -> None:
    core, dsl = FILES["/tracker.js"], FILES[DSL_SCRIPT_PATH]
    assert gzip.decompress(core.gzipped) == core.body
    assert f"/tracker-dsl.js?v={dsl.version}".encode() in core.body
    assert f"/tracker-links.js?v={FILES[LINKS_SCRIPT_PATH].version}".encode() in core.body
    assert f"tracker-jquery.js?v={FILES[JQUERY_PATH].version}".encode() in dsl.body
    assert core.etag(is_gzipped=True) != core.etag(is_gzipped=False)
    assert "immutable" in core.cache_control(core.version)
    assert core.cache_control("an older one") == core.cache_control(None) == "public, max-age=3600"


def test_jquery_carries_its_licence() -> None:
    notice = "/*! jQuery v3.7.1 | (c) OpenJS Foundation and other contributors | jquery.org/license */"
    assert notice.encode() in FILES[JQUERY_PATH].body
