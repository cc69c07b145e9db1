"""A domain-model.xml into what browsers may have of it: checked, and read again when it changes."""

import codecs
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from footfall_servicekit.reloading import ReloadingFile

from footfall_gateway.http import BrowserFile, packed

DEFAULT_FILE = Path(__file__).with_name("domain-model.xml")

# Authors expect a change to be seen soon. Browsers then ask with the entity tag, which costs little.
_MAX_AGE_S = 60

_PARENTS = {"properties": {""}, "events": {"properties"}, "event": {"events"}, "trigger": {"event"}}
_PARENTS["val"] = {"event", "trigger"}
_REQUIRED = {"event": "name", "trigger": "action", "val": "name"}
_TIMER = re.compile(r"timer:[1-9]\d*")
_COUNT = re.compile(r"\d+")
_CODE = {"event": ("condition", "postcondition"), "trigger": ("element",), "val": ("value",)}
_OF_THE_PAGE = {"ready", "load", "unload", "scroll", "resize", "focus", "blur", "hashchange", "popstate"}
"""What happens to the page itself, and so also without an element."""
_ENCODING = re.compile(r"""\A(<\?xml\s[^>]*?\bencoding\s*=\s*["'])([\w.-]+)""", re.ASCII)


class Fault(NamedTuple):
    """What is wrong in a file, and where."""

    line: int
    reason: str


class DslFileError(ValueError):
    """The file cannot be served; the text names it, the line and the reason."""


class Code(NamedTuple):
    """A selector or an expression: what of a rule is for the browser to understand."""

    line: int
    place: str
    """Which event, and which trigger or val of it."""
    attribute: str
    text: str


@dataclass(slots=True)
class Reading:
    """A file as it was understood."""

    text: str = ""
    faults: list[Fault] = field(default_factory=list)
    """What no browser could make an event of: such a file is not served. Code is not judged here."""
    warnings: list[Fault] = field(default_factory=list)
    """What is served, and hardly what its author means."""
    codes: list[Code] = field(default_factory=list)


def read(xml: bytes) -> Reading:
    """What is in a file. Its text says that it is UTF-8, as it will be sent, whatever it was."""
    try:
        text, declared = _decoded(xml)
    except LookupError as error:
        return Reading(faults=[Fault(1, str(error))])
    except UnicodeDecodeError as error:
        line = xml.count(b"\n", 0, error.start) + 1
        return Reading(faults=[Fault(line, f"not {error.encoding}: {error.reason}. Declare the encoding it has")])
    reader = _Reader(text)
    if declared:
        reader.found.warnings.append(Fault(1, f"encoding {declared}: it is sent as UTF-8"))
    reader.read()
    return reader.found


def _decoded(xml: bytes) -> tuple[str, str | None]:
    """The text, and its declared encoding if that is another than UTF-8."""
    found = _ENCODING.match(xml[:200].decode("latin-1"))
    is_utf16 = xml.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    declared = "UTF-16" if is_utf16 else found[2] if found else "UTF-8"
    codec = codecs.lookup(declared).name
    if codec in {"utf-8", "ascii"}:
        return xml.decode("utf-8-sig"), None
    # As in browsers, where Windows' characters count under that name.
    text = xml.decode("cp1252" if codec == "iso8859-1" else codec)
    return _ENCODING.sub(r"\1UTF-8", text), declared


def load_dsl_file(path: Path) -> Reading:
    """The file, read.

    Raises:
        DslFileError: it cannot be.

    """
    try:
        return read(path.read_bytes())
    except OSError as error:
        raise DslFileError(f"{path}: {error.strerror}") from error


def check_dsl_file(path: Path) -> BrowserFile:
    """The file as it will be sent.

    Raises:
        DslFileError: it cannot be read, or is broken.

    """
    found = load_dsl_file(path)
    if found.faults:
        raise DslFileError("\n".join(f"{path}:{fault.line}: {fault.reason}" for fault in found.faults))
    return packed(found.text.encode(), "application/xml; charset=utf-8", _MAX_AGE_S)


class DslFile(ReloadingFile[BrowserFile]):
    """The file that is served. When a change breaks it, the last good version stays."""

    def __init__(self, path: Path | None) -> None:
        """Raises DslFileError when it is broken from the start."""
        file = path or DEFAULT_FILE
        super().__init__(partial(check_dsl_file, file), [file])


class _EntityError(Exception):
    """An entity is declared, which no rule needs and which can make a file endless."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.found = Reading(text)
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
        raise _EntityError(f"entity {name}: entities are refused, write what it stands for")

    def _skipped(self, name: str, *_: object) -> None:
        self._fault(f"entity {name}: it is not declared here")

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
            self._fault(f"<{name}> is no element of the DSL")
        elif parent not in _PARENTS[name]:
            self._fault(f"<{name}> has no place in <{parent}>" if parent else f"the root is <properties>, not <{name}>")
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
                self._fault("<event> without a <trigger> never happens")
            self._event = self._place = ""

    def _check_trigger(self, attributes: dict[str, str]) -> None:
        name, element, action, kind, count = (
            attributes.get(attribute, "").strip() for attribute in ("name", "element", "action", "type", "count")
        )
        if action.startswith("timer:") and not _TIMER.fullmatch(action):
            self._fault(f"action {action!r}: a timer is timer:<milliseconds>")
        if action.startswith("timer:") and kind not in {"", "timeout", "nomove"}:
            self._fault(f"type {kind!r}: a timer's type is timeout or nomove")
        if count and not _COUNT.fullmatch(count):
            self._fault(f"count {count!r}: a whole number from 1")
        if count and not count.strip("0"):
            self._warn(f'count="{count}" means once, as count="1" does')
        if not name:
            self._warn("it has no name")
        if not (element or action.startswith("timer:") or action in _OF_THE_PAGE):
            self._warn(f'element="" selects nothing, so no {action} raises it')
