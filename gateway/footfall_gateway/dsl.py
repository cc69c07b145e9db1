"""A domain-model.xml into what browsers may have of it: checked, and read again when it changes."""

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import structlog

from footfall_gateway.tracker_files import BrowserFile, packed

DEFAULT_FILE = Path(__file__).with_name("domain-model.xml")

_log = structlog.get_logger()

# Authors expect a change to be seen soon. Browsers then ask with the entity tag, which costs little.
_MAX_AGE_S = 60

_PARENTS = {"properties": {""}, "events": {"properties"}, "event": {"events"}, "trigger": {"event"}}
_PARENTS["val"] = {"event", "trigger"}
_REQUIRED = {"event": "name", "trigger": "action", "val": "name"}
_TIMER = re.compile(r"timer:[1-9]\d*")
_COUNT = re.compile(r"[1-9]\d*")


class Fault(NamedTuple):
    """What is wrong in a file, and where."""

    line: int
    reason: str


class DslFileError(ValueError):
    """The file cannot be served; the text names it, the line and the reason."""


def faults(xml: bytes) -> list[Fault]:
    """What no browser could make an event of; empty for a good file. Expressions and selectors are not judged."""
    checker = _Checker()
    try:
        checker.parse(xml)
    except expat.ExpatError as error:
        checker.faults.append(Fault(error.lineno, f"not well-formed: {expat.ErrorString(error.code)}"))
    return checker.faults


def check(path: Path) -> BrowserFile:
    """The file as it will be sent.

    Raises:
        DslFileError: it cannot be read, or is broken.

    """
    try:
        xml = path.read_bytes()
    except OSError as error:
        raise DslFileError(f"{path}: {error.strerror}") from error
    if found := faults(xml):
        raise DslFileError("\n".join(f"{path}:{fault.line}: {fault.reason}" for fault in found))
    return packed(xml, "application/xml; charset=utf-8", _MAX_AGE_S)


class DslFile:
    """The file that is served. A change that breaks it is refused, and the last good one stays.

    Raises:
        DslFileError: it is broken from the start.

    """

    def __init__(self, path: Path | None) -> None:
        self._path = path or DEFAULT_FILE
        self._seen = self._stamp()
        self._good = check(self._path)

    def current(self) -> BrowserFile:
        """The last good content. Looks at the file each time, which blocks for microseconds."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._good = check(self._path)
                _log.info("dsl_loaded", path=str(self._path), version=self._good.version)
            except DslFileError as error:
                _log.error("dsl_refused", reason=str(error))
        return self._good

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def run(arguments: list[str]) -> int:
    """`footfall-gateway check-dsl FILE`: print what is wrong, a line each; the exit code."""
    parser = argparse.ArgumentParser(
        prog="footfall-gateway check-dsl", description="Look for faults in a domain-model.xml; exit with 1 for any."
    )
    parser.add_argument("file", type=Path)
    try:
        check(parser.parse_args(arguments).file)
    except DslFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


class _Checker:
    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._open: list[str] = [""]
        self._has_trigger = False
        self._parser = expat.ParserCreate()
        self._parser.XmlDeclHandler = self._declared
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended

    def parse(self, xml: bytes) -> None:
        self._parser.Parse(xml, True)

    def _fault(self, reason: str) -> None:
        self.faults.append(Fault(self._parser.CurrentLineNumber, reason))

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding and encoding.lower() not in {"utf-8", "us-ascii"}:
            self._fault(f"encoding {encoding}: browsers read it as UTF-8, so save it as that")

    def _doctype(self, *_: object) -> None:
        self._fault("a DOCTYPE has no place here")

    def _started(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1]
        self._open.append(name)
        if name not in _PARENTS:
            self._fault(f"<{name}> is no element of the DSL")
        elif parent not in _PARENTS[name]:
            self._fault(f"<{name}> has no place in <{parent}>" if parent else f"the root is <properties>, not <{name}>")
        required = _REQUIRED.get(name)
        if required and not attributes.get(required, "").strip():
            self._fault(f"<{name}> needs the attribute {required}")
        if name == "event":
            self._has_trigger = False
        if name == "trigger":
            self._has_trigger = True
            self._check_trigger(attributes)

    def _ended(self, name: str) -> None:
        self._open.pop()
        if name == "event" and not self._has_trigger:
            self._fault("<event> without a <trigger> never happens")

    def _check_trigger(self, attributes: dict[str, str]) -> None:
        action, kind = attributes.get("action", "").strip(), attributes.get("type", "").strip()
        if action.startswith("timer:") and not _TIMER.fullmatch(action):
            self._fault(f"action {action!r}: a timer is timer:<milliseconds>")
        if action.startswith("timer:") and kind not in {"", "timeout", "nomove"}:
            self._fault(f"type {kind!r}: a timer's type is timeout or nomove")
        count = attributes.get("count", "").strip()
        if count and not _COUNT.fullmatch(count):
            self._fault(f"count {count!r}: a whole number from 1")
