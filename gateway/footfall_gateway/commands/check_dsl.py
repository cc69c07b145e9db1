"""`footfall-gateway check-dsl FILE`: the faults of a domain-model.xml, including its selectors and expressions."""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import esprima
from cssselect2 import SelectorError
from cssselect2.parser import parse as parse_selector

from footfall_gateway.browser import Code, DslFileError, Fault, load_dsl_file

_JQUERY_PSEUDOS = {
    "animated", "button", "checkbox", "contains", "eq", "even", "file", "first", "gt", "header", "hidden", "image",
    "input", "last", "lt", "nth", "odd", "parent", "password", "radio", "reset", "selected", "submit", "text",
    "visible",
}  # fmt: skip
_CSS_PSEUDOS = {
    "active", "any-link", "autofill", "checked", "default", "defined", "disabled", "empty", "enabled", "first-child",
    "first-of-type", "focus", "focus-visible", "focus-within", "fullscreen", "has", "hover", "in-range",
    "indeterminate", "invalid", "is", "lang", "last-child", "last-of-type", "link", "modal", "not", "nth-child",
    "nth-last-child", "nth-last-of-type", "nth-of-type", "only-child", "only-of-type", "open", "optional",
    "out-of-range", "placeholder-shown", "popover-open", "read-only", "read-write", "required", "root", "scope",
    "target", "user-invalid", "user-valid", "valid", "visited", "where",
}  # fmt: skip

# Parts that jQuery accepts and CSS does not: unquoted text, an operator, names and values that begin with a digit. And
# parts that may contain any character: quoted texts and escapes.
_JQUERY_ONLY = re.compile(
    r"""(?P<text>:contains\((?!\s*["'])[^()]*\)) | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | !(?==)
    | (?<=[\#.=])(?P<digit>\d) | (?P<escaped>\\.)""",
    re.VERBOSE,
)

_SELECTING = {"find", "closest", "parents", "parent", "children", "siblings"}
"""Methods of jQuery that take a selector. Other objects rarely have them with a text as argument."""


def run(arguments: list[str]) -> int:
    """Print each fault and warning on a line, and return the exit code: 1 for faults, else 0."""
    parser = argparse.ArgumentParser(
        prog="footfall-gateway check-dsl",
        description="Report the faults of a domain-model.xml, including its selectors and expressions. The exit code "
        "is 1 when there are any.",
    )
    parser.add_argument("file", type=Path)
    path = parser.parse_args(arguments).file
    try:
        found = load_dsl_file(path)
    except DslFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    faults = [*found.faults, *(fault for code in found.codes for fault in _code_faults(code))]
    warnings = [Fault(line, f"warning: {reason}") for line, reason in found.warnings]
    for line, reason in sorted(faults + warnings):
        sys.stderr.write(f"{path}:{line}: {reason}\n")
    return 1 if faults else 0


def _code_faults(code: Code) -> Iterator[Fault]:
    reasons = selector_faults(code.text) if code.attribute == "element" else expression_faults(code.text)
    for reason in reasons:
        yield Fault(code.line, f"{code.place}: {code.attribute} {code.text!r}: {reason}")


def selector_faults(selector: str) -> Iterator[str]:
    """The faults of a selector that neither browsers nor jQuery accept; at most one for each name."""
    css = _JQUERY_ONLY.sub(_as_css, selector)
    if css.count("(") != css.count(")") or css.count("[") != css.count("]"):
        yield "brackets do not match"
        return
    try:
        list(parse_selector(css, relative=True))
    except SelectorError as error:
        yield f"is not a selector: {error.args[-1]}"
        return
    for name in re.findall(r"(?<!:):([\w-]+)", css):
        if name.lower() not in _JQUERY_PSEUDOS | _CSS_PSEUDOS and not name.startswith("-"):
            yield f":{name} is neither in CSS nor in jQuery"


def _as_css(found: re.Match[str]) -> str:
    if found["text"]:
        return ":contains(x)"
    if found["string"]:
        return "''"
    return "x" if found["digit"] or found["escaped"] else ""


def expression_faults(expression: str) -> Iterator[str]:
    """The faults of an expression: of its JavaScript, and of the selectors that it passes to jQuery."""
    selectors: list[str] = []
    try:
        esprima.parseScript(expression, {}, lambda node, _: selectors.extend(_selectors(node)))
    except esprima.Error as error:
        yield f"is not JavaScript: {error.message.partition(': ')[2]}, column {error.column}"
        return
    for selector in selectors:
        for reason in selector_faults(selector):
            yield f"{selector!r}: {reason}"


def _selectors(node: esprima.nodes.Node) -> Iterator[str]:
    """The selectors that a call passes to jQuery as text. Text that begins with < is HTML."""
    if node.type != "CallExpression" or not node.arguments or not isinstance(node.arguments[0].value, str):
        return
    callee, text = node.callee, node.arguments[0].value
    is_jquery = callee.type == "Identifier" and callee.name in {"$", "jQuery"}
    if (is_jquery or (callee.property and callee.property.name in _SELECTING)) and not text.lstrip().startswith("<"):
        yield text
