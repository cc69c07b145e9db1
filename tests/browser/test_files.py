"""The files of the tracker, as the gateway sends them."""

import gzip
from pathlib import Path

import pytest
from footfall_gateway.dsl import DEFAULT_FILE, DslFile, DslFileError, Fault, faults, run
from footfall_gateway.tracker_files import DSL_SCRIPT_PATH, SCRIPT_PATHS, load_tracker_files

FILES = load_tracker_files(idle_minutes=30)


@pytest.mark.parametrize(("path", "budget"), [(SCRIPT_PATHS[0], 5_800), (DSL_SCRIPT_PATH, 4_000)])
def test_size_budget(path: str, budget: int) -> None:
    assert len(FILES[path].gzipped) < budget


def test_every_path_has_the_same_script() -> None:
    assert len({FILES[path].etag for path in SCRIPT_PATHS}) == 1


def test_the_script_knows_when_a_visit_is_over() -> None:
    core, later = FILES["/tracker.js"], load_tracker_files(idle_minutes=45)["/tracker.js"]
    assert core.body.replace(b"'30'", b"'45'") == later.body != core.body
    assert core.version != later.version


def test_versions_and_caching() -> None:
    core, dsl = FILES["/tracker.js"], FILES[DSL_SCRIPT_PATH]
    assert gzip.decompress(core.gzipped) == core.body
    assert f"/tracker-dsl.js?v={dsl.version}".encode() in core.body
    assert core.etag != core.gzip_etag
    assert "immutable" in core.cache_control(core.version)
    assert core.cache_control("an older one") == core.cache_control(None) == "public, max-age=3600"


def test_the_default_dsl_is_good() -> None:
    assert faults(DEFAULT_FILE.read_bytes()) == []


def in_event(content: str) -> str:
    return f"<properties><events><event name='A'>\n{content}</event></events></properties>"


NOT_UTF8 = "<?xml version='1.0' encoding='latin-1'?>\n<properties/>"


@pytest.mark.parametrize(
    ("xml", "line", "reason"),
    [
        ("<properties>\n<events>\n</properties>", 3, "not well-formed: mismatched tag"),
        ("", 1, "not well-formed: no element found"),
        ("<rules/>", 1, "<rules> is no element of the DSL"),
        ("<events/>", 1, "the root is <properties>, not <events>"),
        ("<properties>\n<event name='A'/></properties>", 2, "<event> has no place in <properties>"),
        ("<properties><events>\n<event/></events></properties>", 2, "<event> needs the attribute name"),
        (in_event(""), 2, "<event> without a <trigger> never happens"),
        (in_event("<trigger/>"), 2, "<trigger> needs the attribute action"),
        (in_event("<val value='1'/>"), 2, "<val> needs the attribute name"),
        (in_event("<trigger action='timer:soon'/>"), 2, "action 'timer:soon': a timer is timer:<milliseconds>"),
        (in_event("<trigger action='click' count='x'/>"), 2, "count 'x': a whole number from 1"),
        (in_event("<trigger action='timer:9' type='x'/>"), 2, "type 'x': a timer's type is timeout or nomove"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><properties/>", 1, "a DOCTYPE has no place here"),
        (NOT_UTF8, 1, "encoding latin-1: browsers read it as UTF-8, so save it as that"),
    ],
)
def test_a_broken_dsl_is_named_by_line_and_reason(xml: str, line: int, reason: str) -> None:
    assert Fault(line, reason) in faults(xml.encode())


def test_a_changed_file_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rules.xml"
    path.write_text("<properties><events/></properties>")
    file = DslFile(path)
    first = file.current()
    path.write_text("<properties><events></properties>")
    assert file.current() is first
    path.write_text("<properties>  <events/> </properties>")
    assert file.current().body == path.read_bytes()
    path.unlink()
    assert file.current().body == b"<properties>  <events/> </properties>"
    with pytest.raises(DslFileError, match=r"rules\.xml: No such file"):
        DslFile(path)
    assert DslFile(None).current().body == DEFAULT_FILE.read_bytes()


def test_check_dsl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(DEFAULT_FILE)]) == 0
    path = tmp_path / "rules.xml"
    path.write_text("<properties>\n<oops/></properties>")
    assert run([str(path)]) == 1
    assert capsys.readouterr().err == f"{path}:2: <oops> is no element of the DSL\n"
