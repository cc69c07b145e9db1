"""The table of error reasons, from the places in the sources that give them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import footfall_servicekit.errors

from docs.generate.markdown import ROOT, table
from docs.generate.settings import SERVICES

_REASON = re.compile(r"[A-Z]+(_[A-Z]+)*")
_EVERY_SERVICE = "every service"


class Raised(NamedTuple):
    """A reason that code gives to its caller."""

    reason: str
    code: str
    meaning: str
    source: str


def error_reasons() -> str:
    """Every reason of a `RequestError`, with its status code, who gives it, and what it means."""
    merged: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for raised in _raised():
        sources, meanings = merged.setdefault((raised.reason, raised.code), (set(), set()))
        sources.add(raised.source)
        meanings.add(raised.meaning)
    rows = [
        [f"`{reason}`", f"`{code}`", _source(sources), "; ".join(sorted(meanings))]
        for (reason, code), (sources, meanings) in sorted(merged.items())
    ]
    return table(["Reason", "Status", "Given by", "Meaning"], rows)


def _source(sources: set[str]) -> str:
    return _EVERY_SERVICE if _EVERY_SERVICE in sources else ", ".join(sorted(sources))


def _raised() -> Iterator[Raised]:
    folders = {_EVERY_SERVICE: ROOT / "servicekit"} | {name: ROOT / "services" / name for name in SERVICES}
    for source, folder in folders.items():
        for file in sorted(folder.glob("footfall_*/**/*.py")):
            if file.name != "errors.py":  # which holds the methods, and raises nothing
                yield from _raised_in(file, source)


@cache
def _methods() -> dict[str, Raised]:
    """By method of `RequestError`, its status code, and its reason where its caller gives none."""
    module = ast.parse(Path(footfall_servicekit.errors.__file__).read_text(encoding="utf-8"))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == "RequestError"]
    found: dict[str, Raised] = {}
    for method in reversed(body):  # a method that calls another one stands before it
        if not isinstance(method, ast.FunctionDef):
            continue
        called = [each.attr for each in ast.walk(method) if isinstance(each, ast.Attribute) and each.attr in found]
        if called:
            found[method.name] = found[called[0]]
        elif code := _code(method):
            meaning = (ast.get_docstring(method) or "").partition("\n")[0].removeprefix(f"{code}: ").removesuffix(".")
            found[method.name] = Raised(next(_reasons(method), ""), code, meaning, _EVERY_SERVICE)
    return found


def _raised_in(file: Path, source: str) -> Iterator[Raised]:
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            match call.func:
                case ast.Attribute(value=ast.Name(id="RequestError"), attr=name) if name in _methods():
                    general = _methods()[name]
                case ast.Name(id="RequestError"):
                    general = Raised("", _code(call), "", source)
                case _:
                    continue
            reasons = [*_reasons(call)]
            if not reasons and general.reason:
                yield general._replace(source=source)
            for reason in reasons:
                yield Raised(reason, general.code, _message(call, function), source)


def _code(node: ast.AST) -> str:
    """The `grpc.StatusCode` in it."""
    found = (each for each in ast.walk(node) if isinstance(each, ast.Attribute))
    return next((each.attr for each in found if ast.unparse(each.value) == "grpc.StatusCode"), "")


def _reasons(node: ast.AST) -> Iterator[str]:
    """The reasons in it: constants in capitals."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and _REASON.fullmatch(each.value):
            yield each.value


def _message(call: ast.Call, function: ast.AST) -> str:
    """The message of an error, with `...` for what only a running service knows."""
    before = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and node.lineno < call.lineno]
    variables = {
        target.id: node.value
        for node in sorted(before, key=lambda node: node.lineno)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for argument in call.args:
        match variables.get(argument.id) if isinstance(argument, ast.Name) else argument:
            case ast.Constant(value=str(text)) if not _REASON.fullmatch(text):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in parts)
    return ""
