"""The DSL file as the gateway reads it, and the output of `footfall-gateway check-dsl`."""

from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from footfall_gateway.browser.dsl import DEFAULT_FILE, DslFile, DslFileError, Fault, parse_dsl
from footfall_gateway.commands.check_dsl import run

from tests.browser.rules import BAD_SELECTORS, EXPRESSIONS, GOOD_SELECTORS


def test_the_default_dsl_is_valid() -> None:
    found = parse_dsl(DEFAULT_FILE.read_bytes())
    assert (found.faults, found.warnings) == ([], [])
    assert found.text.encode() == DEFAULT_FILE.read_bytes()


def in_event(content: str) -> str:
    return f"<properties><events><event name='A'>\n{content}</event></events></properties>"


ENTITIES = "<!DOCTYPE x [\n%s]><properties>&a;</properties>"


@pytest.mark.parametrize(
    ("xml", "line", "reason"),
    [
        ("<properties>\n<events>\n</properties>", 3, "not well-formed: mismatched tag"),
        ("", 1, "not well-formed: no element found"),
        ("<rules/>", 1, "<rules> is not an element of the DSL"),
        ("<events/>", 1, "the root must be <properties>"),
        ("<properties>\n<event name='A'/></properties>", 2, "event 'A': <event> must not be in <properties>"),
        ("<properties><events>\n<event/></events></properties>", 2, "event '': <event> needs the attribute name"),
        (in_event(""), 2, "event 'A': <event> needs a <trigger>"),
        (in_event("<trigger/>"), 2, "event 'A', trigger '': <trigger> needs the attribute action"),
        (in_event("<val value='1'/>"), 2, "event 'A', val '': <val> needs the attribute name"),
        (
            in_event("<trigger action='timer:soon'/>"),
            2,
            "event 'A', trigger '': action 'timer:soon': must be timer:<milliseconds>",
        ),
        (
            in_event("<trigger action='click' count='x'/>"),
            2,
            "event 'A', trigger '': count 'x': must be a whole number from 1",
        ),
        (
            in_event("<trigger action='timer:9' type='x'/>"),
            2,
            "event 'A', trigger '': type 'x': must be timeout or nomove for a timer",
        ),
        (ENTITIES % "<!ENTITY a 'b'>", 2, "entity a: must not be declared; write its text instead"),
        (ENTITIES % "<!ENTITY a SYSTEM '/etc/passwd'>", 2, "entity a: must not be declared; write its text instead"),
        (ENTITIES % "<!ENTITY % a SYSTEM 'x'> %a;", 2, "entity a: must not be declared; write its text instead"),
        (
            "<!DOCTYPE x SYSTEM 'x.dtd'>\n<properties>&a;</properties>",
            2,
            "entity a: is not declared; write its text instead",
        ),
        ("<?xml version='1.0' encoding='klingon'?><properties/>", 1, "unknown encoding: klingon"),
    ],
)
def test_faults_have_a_line_and_a_reason(xml: str, line: int, reason: str) -> None:
    assert Fault(line, reason) in parse_dsl(xml.encode()).faults


def test_entities_of_entities_are_never_expanded() -> None:
    nested = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 20))
    assert len(parse_dsl((ENTITIES % f"<!ENTITY e0 'x'>{nested}").replace("&a;", "&e19;").encode()).faults) == 1


WORD = (
    "<?xml version='1.0' encoding='{}'?>\n<!DOCTYPE properties SYSTEM 'x.dtd' [<!-- none -->]>\n"
    "<properties>{}</properties>"
)


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("ISO-8859-1", "cp1252"), ("latin1", "cp1252"), ("windows-1252", "cp1252"), ("ISO-8859-2", "iso8859-2"),
     ("UTF-16", "utf-16"), ("koi8-r", "koi8-r")],
)  # fmt: skip
def test_any_encoding_is_sent_as_utf8(tmp_path: Path, declared: str, codec: str) -> None:
    content = "<events><event name='A'><trigger name='t' element='a' action='Ж'/></event></events>".replace(
        "Ж", "Ж" if codec in {"koi8-r", "utf-16"} else "ő" if codec == "iso8859-2" else "ä€"
    )
    path = tmp_path / "rules.xml"
    path.write_bytes(WORD.format(declared, content).encode(codec))
    file = DslFile(path).current()
    assert file.body.decode() == WORD.format("UTF-8", content)
    assert parse_dsl(path.read_bytes()).warnings == [Fault(1, f"encoding {declared}: it is sent as UTF-8")]


def test_a_wrong_encoding_is_a_fault_with_a_line() -> None:
    assert parse_dsl("<properties>\n<!-- ä --></properties>".encode("latin-1")).faults[0].line == 2


def test_a_changed_file_is_served_unless_it_has_a_fault(tmp_path: Path) -> None:
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


def checked(tmp_path: Path, capsys: pytest.CaptureFixture[str], xml: str) -> tuple[int, list[str]]:
    path = tmp_path / "rules.xml"
    path.write_text(xml)
    code = run([str(path)])
    return code, capsys.readouterr().err.replace(str(path), "").splitlines()


def test_check_dsl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(DEFAULT_FILE)]) == 0
    assert run([str(tmp_path / "none.xml")]) == 1
    assert capsys.readouterr().err == f"{tmp_path / 'none.xml'}: No such file or directory\n"
    assert checked(tmp_path, capsys, "<properties>\n<oops/></properties>") == (
        1,
        [":2: <oops> is not an element of the DSL"],
    )


def test_check_dsl_warns_of_probable_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml = (
        "<?xml version='1.0' encoding='us-ascii'?><properties><events><event name='A'>\n"
        "<trigger action='click' element='a'/><trigger name='t' element='' action='click'/>\n"
        "<trigger name='u' element='' action='ready' count='0'/>"
        "<trigger name='v' element='' action='timer:5'/></event></events></properties>"
    )
    assert checked(tmp_path, capsys, xml) == (0, [
        ":2: warning: event 'A', trigger '': the trigger has no name",
        """:2: warning: event 'A', trigger 't': element="" selects nothing, so click never triggers it""",
        """:3: warning: event 'A', trigger 'u': count="0" means once, as count="1" does""",
    ])  # fmt: skip


BAD_EXPRESSIONS = {
    "a b": "is not JavaScript: Unexpected identifier, column 3",
    "$('a'.val()": "is not JavaScript: Unexpected end of input, column 12",
    "$(“a”).val()": "is not JavaScript: Unexpected token ILLEGAL, column 3",
    "return 1": "is not JavaScript: Illegal return statement, column 7",
    "$('a[').val()": "'a[': brackets do not match",
    "jQuery(event.target).closest('a:fist').text()": "'a:fist': :fist is neither in CSS nor in jQuery",
}


def test_check_dsl_reports_faulty_selectors_and_expressions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trigger(selector: str) -> str:
        return f"<trigger name='t' action='click' element={quoteattr(selector)}/>"

    values = "".join(
        f"<val name='v' value={quoteattr(code)}/>" for code in [*EXPRESSIONS, "$('<a>').text()", "''.trim()"]
    )
    assert checked(tmp_path, capsys, in_event("".join(map(trigger, GOOD_SELECTORS)) + values)) == (0, [])
    for selector, reason in BAD_SELECTORS.items():
        line = f":2: event 'A', trigger 't': element {selector!r}: {reason}"
        assert checked(tmp_path, capsys, in_event(trigger(selector))) == (1, [line])
    for code, reason in BAD_EXPRESSIONS.items():
        xml = in_event(f"{trigger('a')}\n<val name='v' value={quoteattr(code)}/>")
        assert checked(tmp_path, capsys, xml) == (1, [f":3: event 'A', val 'v': value {code!r}: {reason}"])
        xml = xml.replace("name='A'", f"name='A' postcondition={quoteattr(code)}")
        assert checked(tmp_path, capsys, xml)[1][0] == f":1: event 'A': postcondition {code!r}: {reason}"
