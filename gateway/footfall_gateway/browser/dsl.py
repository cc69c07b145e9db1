"""The DSL file of a site (domain-model.xml): checked before it is served, and read again when it changes."""

import codecs
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from footfall_servicekit.reloading import ReloadingFile

from footfall_gateway.http import BrowserFile, browser_file

DEFAULT_FILE = Path(__file__).with_name("domain-model.xml")

_MAX_AGE_S = 60
"""Authors expect to see a change soon. A revalidation by entity tag is cheap."""

_PARENTS = {"properties": {""}, "events": {"properties"}, "event": {"events"}, "trigger": {"event"}}
_PARENTS["val"] = {"event", "trigger"}
_REQUIRED = {"event": "name", "trigger": "action", "val": "name"}
_TIMER = re.compile(r"timer:[1-9]\d*")
_COUNT = re.compile(r"\d+")
_CODE = {"event": ("condition", "postcondition"), "trigger": ("element",), "val": ("value",)}
_PAGE_EVENTS = {"ready", "load", "unload", "scroll", "resize", "focus", "blur", "hashchange", "popstate"}
"""Events of the page itself, which need no element."""
_ENCODING = re.compile(r"""\A(<\?xml\s[^>]*?\bencoding\s*=\s*["'])([\w.-]+)""", re.ASCII)


class Fault(NamedTuple):
    """A fault of a file, and its line."""

    line: int
    reason: str


class DslFileError(ValueError):
    """The file cannot be served. The text names the file, the line and the reason."""


class Code(NamedTuple):
    """A selector or an expression, which the browser evaluates."""

    line: int
    place: str
    """The event, and its trigger or val."""
    attribute: str
    text: str


@dataclass(slots=True)
class ParsedDsl:
    """A parsed file."""

    text: str = ""
    faults: list[Fault] = field(default_factory=list)
    """Faults that keep the file from being served. Selectors and expressions are not checked."""
    warnings: list[Fault] = field(default_factory=list)
    """Probable mistakes in a file that is served."""
    codes: list[Code] = field(default_factory=list)


def parse_dsl(xml: bytes) -> ParsedDsl:
    """Parse a file. The result's text declares UTF-8, in which it is sent."""
    try:
        text, declared = _decoded(xml)
    except LookupError as error:
        return ParsedDsl(faults=[Fault(1, str(error))])
    except UnicodeDecodeError as error:
        line = xml.count(b"\n", 0, error.start) + 1
        return ParsedDsl(faults=[Fault(line, f"is not {error.encoding}; declare the encoding of the file")])
    parser = _Parser(text)
    if declared:
        parser.found.warnings.append(Fault(1, f"encoding {declared}: it is sent as UTF-8"))
    parser.read()
    return parser.found


def _decoded(xml: bytes) -> tuple[str, str | None]:
    """The text, and its declared encoding unless that is UTF-8."""
    found = _ENCODING.match(xml[:200].decode("latin-1"))
    is_utf16 = xml.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    declared = "UTF-16" if is_utf16 else found[2] if found else "UTF-8"
    codec = codecs.lookup(declared).name
    if codec in {"utf-8", "ascii"}:
        return xml.decode("utf-8-sig"), None
    # As in browsers, which decode ISO-8859-1 as Windows-1252.
    text = xml.decode("cp1252" if codec == "iso8859-1" else codec)
    return _ENCODING.sub(r"\1UTF-8", text), declared


def load_dsl_file(path: Path) -> ParsedDsl:
    """Read and parse a file.

    Raises:
        DslFileError: the file cannot be read.

    """
    try:
        return parse_dsl(path.read_bytes())
    except OSError as error:
        raise DslFileError(f"{path}: {error.strerror}") from error


def check_dsl_file(path: Path) -> BrowserFile:
    """The file as it is sent.

    Raises:
        DslFileError: the file cannot be read, or has a fault.

    """
    found = load_dsl_file(path)
    if found.faults:
        raise DslFileError("\n".join(f"{path}:{fault.line}: {fault.reason}" for fault in found.faults))
    return browser_file(found.text.encode(), "application/xml; charset=utf-8", _MAX_AGE_S)


class DslFile(ReloadingFile[BrowserFile]):
    """The file that is served. After a change with a fault, the last valid content is served."""

    def __init__(self, path: Path | None) -> None:
        """Raises DslFileError when the file has a fault at the start."""
        file = path or DEFAULT_FILE
        super().__init__(partial(check_dsl_file, file), [file])


class _EntityError(Exception):
    """The file declares an entity. No rule needs one, and entities can expand to any size."""


class _Parser:
    def __init__(self, text: str) -> None:
        self.found = ParsedDsl(text)
        self._open: list[str] = [""]
        self._event = ""
        self._place = ""
        self._has_trigger = False
        self._parser = expat.ParserCreate()
        self._parser.EntityDeclHandler = self._entity
        self._parser.SkippedEntityHandler = self._skipped
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended

    def read(self) -> None:
        try:
            self._parser.Parse(self.found.text, True)
        except _EntityError as error:
            self._fault(str(error))
        except expat.ExpatError as error:
            self.found.faults.append(Fault(error.lineno, f"not well-formed: {expat.ErrorString(error.code)}"))

    def _fault(self, reason: str) -> None:
        self.found.faults.append(self._here(reason))

    def _warn(self, reason: str) -> None:
        self.found.warnings.append(self._here(reason))

    def _here(self, reason: str) -> Fault:
        return Fault(self._parser.CurrentLineNumber, f"{self._place}: {reason}" if self._place else reason)

    def _entity(self, name: str, *_: object) -> None:
        raise _EntityError(f"entity {name}: must not be declared; write its text instead")

    def _skipped(self, name: str, *_: object) -> None:
        self._fault(f"entity {name}: is not declared; write its text instead")

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1]
        self._open.append(name)
        named = f"{name} {attributes.get('name', '').strip()!r}"
        if name == "event":
            self._event = self._place = named
            self._has_trigger = False
        elif self._event:
            self._place = f"{self._event}, {named}"
        if name not in _PARENTS:
            self._fault(f"<{name}> is not an element of the DSL")
        elif parent not in _PARENTS[name]:
            self._fault(f"<{name}> must not be in <{parent}>" if parent else "the root must be <properties>")
        required = _REQUIRED.get(name)
        if required and not attributes.get(required, "").strip():
            self._fault(f"<{name}> needs the attribute {required}")
        if name == "trigger":
            self._has_trigger = True
            self._check_trigger(attributes)
        for attribute in _CODE.get(name, ()):
            if text := attributes.get(attribute, "").strip():
                self.found.codes.append(Code(self._parser.CurrentLineNumber, self._place, attribute, text))

    def _ended(self, name: str) -> None:
        self._open.pop()
        self._place = self._event
        if name == "event":
            if not self._has_trigger:
                self._fault("<event> needs a <trigger>")
            self._event = self._place = ""

    def _check_trigger(self, attributes: dict[str, str]) -> None:
        name, element, action, kind, count = (
            attributes.get(attribute, "").strip() for attribute in ("name", "element", "action", "type", "count")
        )
        if action.startswith("timer:") and not _TIMER.fullmatch(action):
            self._fault(f"action {action!r}: must be timer:<milliseconds>")
        if action.startswith("timer:") and kind not in {"", "timeout", "nomove"}:
            self._fault(f"type {kind!r}: must be timeout or nomove for a timer")
        if count and not _COUNT.fullmatch(count):
            self._fault(f"count {count!r}: must be a whole number from 1")
        if count and not count.strip("0"):
            self._warn(f'count="{count}" means once, as count="1" does')
        if not name:
            self._warn("the trigger has no name")
        if not (element or action.startswith("timer:") or action in _PAGE_EVENTS):
            self._warn(f'element="" selects nothing, so {action} never triggers it')
